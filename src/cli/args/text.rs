//! The verbs that print a text by nature: their help has no `--json`, and they refuse it.

use clap::Args;

/// Hides the flag in the help of a verb.
#[derive(Args)]
pub struct OnlyText {
    #[arg(long, hide = true)]
    json: bool,
}
