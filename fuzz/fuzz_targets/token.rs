//! Interprocess tokens: raw bytes, and what a hostile holder of the domain's keys could seal.
//!
//! The first byte says how: raw token, raw bundle, forged token, forged bundle, or a real token's
//! inside with changes (position and xor, two bytes each). The second says the framing. Held is:
//! what is refused spends nothing; what imports is a context that survives use, and spends its
//! token.

#![no_main]

use std::cell::RefCell;

use baton::codec::Framing;
use baton::context::Context;
use baton::ledger::Domain;
use baton::message::Message;
use baton::record::Record;
use baton::status::Status;
use baton::transfer::{Export, PublicHeader, forge, import, unbundle};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World::new());
}

/// A context of each framing, in transit between two inputs.
struct World {
    domain: Domain,
    message: Vec<u8>,
    record: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let domain = Domain::inherited(64).expect("a small ledger");
        let (message, record) = (fresh::<Message>(&domain), fresh::<Record>(&domain));
        Self {
            domain,
            message,
            record,
        }
    }
}

/// A framing that can be made without a handshake, and used somehow.
trait Fuzzed: Framing {
    fn make(domain: &Domain) -> Result<(Context<Self>, Context<Self>), Status>;
    fn exercise(context: &mut Context<Self>);
}

impl Fuzzed for Message {
    fn make(domain: &Domain) -> Result<(Context<Self>, Context<Self>), Status> {
        forge::messages(domain)
    }

    fn exercise(context: &mut Context<Self>) {
        if let Ok(mut token) = context.wrap(true, b"after the hop") {
            // Its own token, reflected.
            assert!(context.unwrap(&mut token).is_err());
        }
        let _ = context.get_mic(b"after the hop");
    }
}

impl Fuzzed for Record {
    fn make(domain: &Domain) -> Result<(Context<Self>, Context<Self>), Status> {
        forge::records(domain)
    }

    fn exercise(context: &mut Context<Self>) {
        let _ = context.read(&mut [0; 512]);
        let _ = context.write(b"after the hop");
        let _ = context.key_update(true);
        let _ = context.feed(&[
            23, 3, 3, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ]);
        let _ = context.read(&mut [0; 512]);
        let _ = context.take_output();
    }
}

fn fresh<F: Fuzzed>(domain: &Domain) -> Vec<u8> {
    let (context, peer) = F::make(domain).expect("the ledger has room");
    drop(peer);
    context
        .export(&Export::default())
        .expect("it can leave")
        .into_bytes()
}

fn run<F: Fuzzed>(domain: &Domain, waiting: &mut Vec<u8>, how: u8, bytes: &[u8]) {
    let imported = match how % 5 {
        0 => import::<F>(domain, bytes, None).ok(),
        1 => unbundled(domain, bytes.to_vec()),
        2 => forge::token(domain, bytes)
            .ok()
            .and_then(|t| import::<F>(domain, &t, None).ok()),
        3 => forge::bundle(domain, bytes)
            .ok()
            .and_then(|bundle| unbundled(domain, bundle)),
        _ => {
            let inside = forge::inside(domain, waiting).expect("its own domain");
            let forged = forge::token(domain, &changed(inside, bytes)).expect("it fitted before");
            import::<F>(domain, &forged, None).ok()
        }
    };
    let _ = PublicHeader::read(bytes);
    match imported {
        Some(mut context) => {
            F::exercise(&mut context);
            assert!(import::<F>(domain, waiting, None).is_err(), "one runner");
            if let Ok(token) = context.export(&Export::default()) {
                let mut context: Context<F> =
                    import(domain, token.as_bytes(), None).expect("what was exported imports");
                F::exercise(&mut context);
            }
            *waiting = fresh::<F>(domain);
        }
        None => {
            let context: Context<F> = import(domain, waiting, None).expect("nothing was spent");
            *waiting = context
                .export(&Export::default())
                .expect("untouched")
                .into_bytes();
        }
    }
}

fn unbundled<F: Framing>(domain: &Domain, mut bundle: Vec<u8>) -> Option<Context<F>> {
    let sockets = (0..2).filter_map(|_| std::net::UdpSocket::bind("127.0.0.1:0").ok());
    let outcomes = unbundle(domain, &mut bundle, sockets.map(Into::into).collect()).ok()?;
    outcomes
        .into_iter()
        .find_map(|one| one.ok().map(|(context, _)| context))
}

fn changed(mut inside: Vec<u8>, changes: &[u8]) -> Vec<u8> {
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % inside.len();
        inside[at] ^= change[2];
    }
    inside
}

fuzz_target!(|input: &[u8]| {
    let [how, framing, bytes @ ..] = input else {
        return;
    };
    WORLD.with_borrow_mut(|world| {
        if framing % 2 == 0 {
            run::<Message>(&world.domain, &mut world.message, *how, bytes);
        } else {
            run::<Record>(&world.domain, &mut world.record, *how, bytes);
        }
    });
});
