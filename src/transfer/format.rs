//! The bytes of a token (`spec/token.md`): clear header, sealed binding and state, padding, tag.

use serde::{Deserialize, Serialize};

use crate::codec::{self, Framing};
use crate::context::{Context, Exporter, Facts, Parts};
use crate::crypto::{self, REST_NONCE, Suite, TAG};
use crate::ledger::{Domain, Grant, HANDLE, Handle};
use crate::name;
use crate::secret::{self, Depth, Scratch};
use crate::status::{Minor, Status};

use super::binding::Binding;

/// Bytes of the clear header: magic, version, key id, nonce.
pub const HEADER: usize = 4 + 8 + REST_NONCE;
/// The sizes a token can have, in bytes.
//= spec/token.md#buckets
pub const BUCKETS: [usize; 5] = [512, 2048, 8192, 32_768, 131_072];
/// The largest token.
pub const MAX_TOKEN: usize = BUCKETS[BUCKETS.len() - 1];
/// The magic of a token, of a bundle, and of a bundle with luggage.
pub(super) const TOKEN: [u8; 3] = *b"BTN";
pub(super) const BUNDLE: [u8; 3] = *b"BTB";
pub(super) const LADEN: [u8; 3] = *b"BTL";
/// The same in a kept domain: behind the header stands the handle of the departure.
//= spec/keeper.md#token
pub(super) const KEPT_TOKEN: [u8; 3] = *b"BKN";
pub(super) const KEPT_BUNDLE: [u8; 3] = *b"BKB";
pub(super) const KEPT_LADEN: [u8; 3] = *b"BKL";
/// The version this program writes.
//= spec/token.md#versions
pub const VERSION: u8 = 1;

const NONCE_AT: usize = HEADER - REST_NONCE;
const KEY_AT: usize = 4;

/// What is behind a binding: the exporter secret, the facts, the framing's state.
#[derive(Serialize, Deserialize)]
struct Body<'a, A, Z> {
    #[serde(with = "serde_bytes", borrow)]
    exporter: &'a [u8],
    facts: A,
    state: Z,
}

/// Leaves room for what stands in clear.
pub(super) fn begin(scratch: &mut Scratch, domain: &Domain) {
    scratch.extend_from_slice(&[0; HEADER]);
    if domain.is_kept() {
        scratch.extend_from_slice(&[0; HANDLE]);
    }
}

/// Whether these bytes begin as a bundle does.
pub(super) fn is_bundle(bytes: &[u8]) -> bool {
    bytes.starts_with(&BUNDLE) || bytes.starts_with(&KEPT_BUNDLE)
}

/// Whether this is a bundle with luggage, of any domain.
pub(super) fn is_laden(bytes: &[u8]) -> bool {
    bytes.starts_with(&LADEN) || bytes.starts_with(&KEPT_LADEN)
}

/// Appends one context: its binding and its body.
pub(super) fn write_member<F: Framing>(
    scratch: &mut Scratch,
    binding: &Binding,
    context: &Context<F>,
) -> Result<(), Status> {
    let state = context
        .protection()
        .freeze()
        .ok_or(Minor::NotTransferable)?;
    let exporter = context.exporter().secret();
    let body = Body {
        exporter,
        facts: context.facts(),
        state,
    };
    // The bound is each member's own, whatever stands before it in a bundle.
    let limit = scratch.len() + MAX_TOKEN - HEADER - TAG;
    codec::encode(&(binding, body), scratch, limit).map_err(|_| Minor::StateTooLarge.into())
}

/// Reads one body and makes the context's parts of it; answers what follows it.
///
/// Secrets and keys pass over the stack on their way into their pages: the caller wipes it
/// ([`secret::scrubbed`]).
pub(super) fn read_body<F: Framing>(bytes: &[u8]) -> Result<(Parts<F>, &[u8]), Status> {
    let defect = |_| Status::from(Minor::TokenState);
    let (body, rest) = codec::decode::<Body<'_, Facts, F::Frozen<'_>>>(bytes).map_err(defect)?;
    let suite = Suite::from_code(body.facts.suite).ok_or(Minor::TokenState)?;
    let exporter = Exporter::new(suite, body.exporter).ok_or(Minor::TokenState)?;
    let protection = F::thaw(body.state).map_err(defect)?;
    let mut facts = Box::new(body.facts);
    facts.hops = facts.hops.saturating_add(1);
    Ok((
        Parts {
            protection,
            exporter,
            facts,
            tickets: None,
        },
        rest,
    ))
}

/// Pads to the next bucket, seals, and answers the token. `grant` as for [`seal`].
pub(super) fn finish(
    scratch: &mut Scratch,
    domain: &Domain,
    grant: Option<&Grant>,
) -> Result<Vec<u8>, Status> {
    let needed = scratch.len() + TAG;
    let size = BUCKETS
        .into_iter()
        .find(|size| *size >= needed)
        .ok_or(Minor::StateTooLarge)?;
    scratch.resize(size - TAG);
    let tag = seal(scratch, (TOKEN, KEPT_TOKEN), domain, grant)?;
    let mut token = Vec::with_capacity(size);
    token.extend_from_slice(scratch);
    token.extend_from_slice(&tag);
    Ok(token)
}

/// Writes the header and seals all that is behind it, where it lies, under the domain's key, or
/// in a kept domain under the one-time key of `grant`. The caller wipes the stack.
pub(super) fn seal(
    scratch: &mut Scratch,
    (magic, kept): ([u8; 3], [u8; 3]),
    domain: &Domain,
    grant: Option<&Grant>,
) -> Result<[u8; TAG], Status> {
    let mut nonce = [0; REST_NONCE];
    secret::random(&mut nonce).map_err(|_| Minor::System)?;
    if domain.is_kept() {
        let grant = grant.ok_or(Minor::TokenKey)?;
        scratch[HEADER..HEADER + HANDLE].copy_from_slice(&grant.handle);
        return seal_under(scratch, kept, &domain.id(), (grant.id, &grant.key), nonce);
    }
    domain
        .keyring()
        .ok_or(Minor::TokenKey)?
        .ask_current(|id, key| seal_under(scratch, magic, &domain.id(), (id, key), nonce))
        .map_err(|error| Status::from(&error))?
}

/// [`seal`] with everything given.
//= spec/token.md#sealing
pub(super) fn seal_under(
    scratch: &mut Scratch,
    magic: [u8; 3],
    domain: &[u8; 16],
    (id, key): (u64, &[u8; 32]),
    nonce: [u8; REST_NONCE],
) -> Result<[u8; TAG], Status> {
    let (header, text) = scratch.split_at_mut(clear(magic));
    header[..3].copy_from_slice(&magic);
    header[3] = VERSION;
    header[KEY_AT..NONCE_AT].copy_from_slice(&id.to_be_bytes());
    header[NONCE_AT..HEADER].copy_from_slice(&nonce);
    let (data, length) = associated(header, domain);
    crypto::seal_at_rest(key, &nonce, &data[..length], text).map_err(|_| Minor::System.into())
}

/// Bytes in clear, by the magic.
fn clear(magic: [u8; 3]) -> usize {
    match magic {
        KEPT_TOKEN | KEPT_BUNDLE | KEPT_LADEN => HEADER + HANDLE,
        _ => HEADER,
    }
}

/// The most bytes that are authenticated with the sealed part.
const ASSOCIATED: usize = HEADER + HANDLE + 16 + name::MECHANISM.len();

/// What is authenticated with the sealed part: all in clear, domain, mechanism; and its length.
fn associated(clear: &[u8], domain: &[u8; 16]) -> ([u8; ASSOCIATED], usize) {
    let mut data = [0; ASSOCIATED];
    let mut length = 0;
    for part in [clear, domain, &name::MECHANISM] {
        data[length..length + part.len()].copy_from_slice(part);
        length += part.len();
    }
    (data, length)
}

/// What a header says, its magic and version known to be ours.
pub(super) struct Header {
    pub(super) version: u8,
    pub(super) key: u64,
    pub(super) nonce: [u8; REST_NONCE],
    /// A kept domain's.
    pub(super) handle: Option<Handle>,
}

impl Header {
    /// The header of what has either magic; the second is a kept domain's.
    pub(super) fn read(bytes: &[u8], (magic, kept): ([u8; 3], [u8; 3])) -> Result<Self, Status> {
        let Some(header) = bytes.first_chunk::<HEADER>() else {
            return Err(Minor::TokenMalformed.into());
        };
        let handle = if header[..3] == magic {
            None
        } else if header[..3] == kept {
            let behind = bytes.get(HEADER..).and_then(<[u8]>::first_chunk);
            Some(*behind.ok_or(Minor::TokenMalformed)?)
        } else {
            return Err(Minor::TokenMalformed.into());
        };
        let mut key = [0; 8];
        key.copy_from_slice(&header[KEY_AT..NONCE_AT]);
        let mut nonce = [0; REST_NONCE];
        nonce.copy_from_slice(&header[NONCE_AT..]);
        Ok(Self {
            version: header[3],
            key: u64::from_be_bytes(key),
            nonce,
            handle,
        })
    }
}

/// What a token shows before any key is asked: that it is one, of this version, of a size there is.
//= spec/token.md#refusal
pub(super) fn look(token: &[u8]) -> Result<Header, Status> {
    let header = Header::read(token, (TOKEN, KEPT_TOKEN))?;
    if header.version != VERSION {
        return Err(Minor::TokenVersion.into());
    }
    if !BUCKETS.contains(&token.len()) {
        return Err(Minor::TokenMalformed.into());
    }
    Ok(header)
}

/// Opens a header and all that is behind it, where it lies, under the key the header names; a
/// kept domain's keeper is asked for it, and may refuse. The caller wipes the stack.
pub(super) fn open<'a>(
    sealed: &'a mut [u8],
    header: &Header,
    domain: &Domain,
) -> Result<&'a [u8], Status> {
    //= spec/keeper.md#token
    if let Some(handle) = &header.handle {
        let key = domain
            .ask_key(header.key, handle)
            .map_err(|refusal| Status::from(&refusal))?;
        let id = domain.id();
        return secret::scrubbed(Depth::Moved, || open_under(sealed, header, &id, &key));
    }
    let keyring = domain.keyring().ok_or(Minor::TokenKey)?;
    let id = domain.id();
    // Here and not by the caller alone: the key that one token is sealed with must not be left in what
    // the caller answers, which is more than this.
    let opened = secret::scrubbed(Depth::Moved, || {
        keyring.ask(header.key, |key| open_under(sealed, header, &id, key))
    });
    opened.ok_or(Minor::TokenKey)?
}

/// [`open`] with everything given.
//= spec/token.md#sealing
pub(super) fn open_under<'a>(
    sealed: &'a mut [u8],
    header: &Header,
    domain: &[u8; 16],
    key: &[u8; 32],
) -> Result<&'a [u8], Status> {
    let in_clear = HEADER + header.handle.map_or(0, |handle| handle.len());
    let (clear, text) = sealed
        .split_at_mut_checked(in_clear)
        .ok_or(Minor::TokenMalformed)?;
    let (data, length) = associated(clear, domain);
    crypto::open_at_rest(key, &header.nonce, &data[..length], text)
        .map(|text| &*text)
        .map_err(|_| Minor::TokenAltered.into())
}
