//! Why something failed, in one line for the user, and the exit code of a command that fails so.

/// What went wrong on the server's side, in one line for the user.
pub type Reason = String;

/// Why a command failed, and its exit code.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub code: u8,
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure { message, code: 1 }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure { message: error.to_string(), code: 1 }
    }
}

/// A command line that makes no sense.
pub fn wrong_usage(message: impl Into<String>) -> Failure {
    Failure { message: message.into(), code: 2 }
}
