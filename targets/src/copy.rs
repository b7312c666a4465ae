//! kcopyd
