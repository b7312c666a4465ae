//! dm-io
