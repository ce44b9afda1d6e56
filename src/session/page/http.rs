//! As much of HTTP/1.1 (RFC 9112) as the page needs: a request's head, strictly read.

/// The longest head, in bytes, its empty line included.
pub(super) const MAX_HEAD: usize = 16 * 1024;
/// The most header fields.
const MAX_FIELDS: usize = 100;

/// A request's head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// What is asked for.
    pub wanted: Wanted,
    /// Bytes of the body that follows.
    pub body: u64,
    /// Whether the client waits for a go-ahead before it sends the body.
    pub expects_continue: bool,
    /// Whether the connection ends with the answer.
    pub close: bool,
    /// Whether the client would have HTML.
    pub html: bool,
    /// Whether the answer is to be without its body.
    pub head_only: bool,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The page about the session.
    Page,
    /// The SHA-256 of the request's body.
    Sum,
    /// Something that is not here.
    Nothing,
}

/// Why a request is refused; the connection ends with the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not HTTP/1.1, or not as it must be.
    Malformed,
    /// A method that is not offered.
    Method,
    /// A body whose length is not told at its start.
    LengthRequired,
    /// A head longer than [`MAX_HEAD`], or of too many fields.
    TooLarge,
    /// Another version of HTTP.
    Version,
}

impl Refusal {
    /// The status line's code and reason.
    pub(super) const fn status(self) -> &'static str {
        match self {
            Self::Malformed => "400 Bad Request",
            Self::Method => "405 Method Not Allowed",
            Self::LengthRequired => "411 Length Required",
            Self::TooLarge => "431 Request Header Fields Too Large",
            Self::Version => "505 HTTP Version Not Supported",
        }
    }
}

/// Finds the head at the front of `bytes` and answers it with its length; none while it is not
/// all there.
pub(super) fn head(bytes: &[u8]) -> Result<Option<(Request, usize)>, Refusal> {
    const END: &[u8] = b"\r\n\r\n";
    let within = &bytes[..bytes.len().min(MAX_HEAD)];
    let Some(at) = within.windows(END.len()).position(|window| window == END) else {
        return if bytes.len() < MAX_HEAD {
            Ok(None)
        } else {
            Err(Refusal::TooLarge)
        };
    };
    let head = std::str::from_utf8(&bytes[..at]).map_err(|_| Refusal::Malformed)?;
    Ok(Some((request(head)?, at + END.len())))
}

fn request(head: &str) -> Result<Request, Refusal> {
    let mut lines = head.split("\r\n");
    let line = lines.next().ok_or(Refusal::Malformed)?;
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Refusal::Malformed);
    };
    let old = match version {
        "HTTP/1.1" => false,
        "HTTP/1.0" => true,
        _ if version.starts_with("HTTP/") => return Err(Refusal::Version),
        _ => return Err(Refusal::Malformed),
    };
    let path = target.split('?').next().unwrap_or_default();
    let wanted = match (method, path) {
        ("GET" | "HEAD", "/") => Wanted::Page,
        ("POST" | "PUT", "/sum") => Wanted::Sum,
        ("GET" | "HEAD" | "POST" | "PUT", _) => Wanted::Nothing,
        _ => return Err(Refusal::Method),
    };
    let mut request = Request {
        wanted,
        body: 0,
        expects_continue: false,
        close: old,
        html: false,
        head_only: method == "HEAD",
    };
    let mut length = None;
    for (count, field) in lines.enumerate() {
        if count == MAX_FIELDS {
            return Err(Refusal::TooLarge);
        }
        let (name, value) = field.split_once(':').ok_or(Refusal::Malformed)?;
        // A space before the colon, or a folded line, is read differently by different programs.
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Refusal::Malformed);
        }
        let value = value.trim_matches([' ', '\t']);
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
        if is("content-length") {
            if length.is_some() || value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
                return Err(Refusal::Malformed);
            }
            length = Some(value.parse().map_err(|_| Refusal::Malformed)?);
        } else if is("transfer-encoding") {
            return Err(Refusal::LengthRequired);
        } else if is("connection") {
            let mut options = value.split(',').map(str::trim);
            request.close |= options.any(|option| option.eq_ignore_ascii_case("close"));
        } else if is("expect") {
            request.expects_continue |= value.eq_ignore_ascii_case("100-continue");
        } else if is("accept") {
            request.html |= value.contains("text/html");
        }
    }
    request.body = length.unwrap_or(0);
    if wanted == Wanted::Sum && length.is_none() {
        return Err(Refusal::LengthRequired);
    }
    Ok(request)
}
