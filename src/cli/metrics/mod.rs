//! `baton metrics`: what a running server counts, for Prometheus.
//!
//! | room | what lives there |
//! |---|---|
//! | [`exposition`] | the text |
//! | `exporter` | the text over HTTP |

mod exporter;
pub mod exposition;

use std::io::{self, Write};

use super::arguments::Metrics;
use super::operator::{Asking, Error};

/// Prints the metrics once, or answers with them over HTTP.
///
/// # Errors
/// When the server does not answer; or the system's.
pub fn run(arguments: &Metrics) -> Result<(), Error> {
    let asking = Asking::new(&arguments.asked)?;
    match arguments.listen {
        Some(address) => exporter::run(address, &asking),
        None => {
            let text = exposition::write(Some(&asking.server()?));
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes())?;
            Ok(out.flush()?)
        }
    }
}
