//! Asking a responder over HTTP: one request, one answer, within a time and a size.
//!
//! Invariant: who has failed to answer is not asked again for a while, so that many questions wait
//! together no longer than one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::Agent;

use super::Method;

/// Bytes of the longest answer.
const LARGEST: u64 = 65_535;
/// Bytes of a request in base64 that still goes into an address (RFC 5019 5).
const LONGEST_GET: usize = 255;
/// Responders that are remembered for having failed.
const FAILED: usize = 256;

pub(super) struct Asking {
    agent: Agent,
    method: Method,
    pause: Duration,
    failed: Mutex<HashMap<String, Instant>>,
}

impl Asking {
    pub(super) fn new(method: Method, timeout: Duration, pause: Duration) -> Self {
        let agent = Agent::config_builder()
            .timeout_global(Some(timeout))
            // What the environment says is not the configuration.
            .proxy(None)
            .max_redirects(0)
            .max_idle_connections(0)
            .max_response_header_size(16 << 10)
            .http_status_as_error(false)
            .user_agent("baton")
            .build()
            .new_agent();
        Self {
            agent,
            method,
            pause,
            failed: Mutex::default(),
        }
    }

    /// Sends a request; answers what came back, or why nothing did.
    //= spec/builtin.md#ocsp-request
    pub(super) fn ask(&self, address: &str, request: &[u8]) -> Result<Vec<u8>, String> {
        if self.is_paused(address) {
            return Err("has failed a moment ago".to_owned());
        }
        self.exchange(address, request).map_err(|error| {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            if failed.len() >= FAILED {
                failed.clear();
            }
            failed.insert(address.to_owned(), Instant::now());
            error.to_string()
        })
    }

    fn is_paused(&self, address: &str) -> bool {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match failed.get(address) {
            Some(when) if when.elapsed() < self.pause => true,
            Some(_) => {
                failed.remove(address);
                false
            }
            None => false,
        }
    }

    fn exchange(
        &self,
        address: &str,
        request: &[u8],
    ) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let text = STANDARD.encode(request);
        let mut response = match self.method {
            Method::Get if text.len() <= LONGEST_GET => {
                let text = text
                    .replace('+', "%2B")
                    .replace('/', "%2F")
                    .replace('=', "%3D");
                let address = address.trim_end_matches('/');
                self.agent.get(format!("{address}/{text}")).call()?
            }
            _ => {
                let post = self.agent.post(address);
                let post = post.header("content-type", "application/ocsp-request");
                post.send(request)?
            }
        };
        if response.status().as_u16() != 200 {
            return Err(format!("status {}", response.status().as_u16()).into());
        }
        let kind = response.headers().get("content-type");
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/ocsp-response") {
            return Err("not an application/ocsp-response".into());
        }
        let body = response.body_mut().with_config().limit(LARGEST);
        Ok(body.read_to_vec()?)
    }
}
