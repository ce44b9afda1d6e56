//! Nothing lost on the way (C2, C8): ten thousand hops with everything that can be half done.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use baton::context::{Context, PrfKey};
use baton::exit::{Ticket, TicketState, Tickets, UserContext, UserData};
use baton::ledger::Domain;
use baton::message::Message;
use baton::record::{Read, Record};
use baton::transfer::{Export, import};
use support::{Talk, domain, forked, in_child, pair, pipe, talk};

fn hop<F: Talk>(context: Context<F>, domain: &Domain) -> Context<F> {
    let token = context.export(&Export::default()).unwrap();
    import(domain, token.as_bytes(), None).unwrap()
}

/// C8: messages, with tokens lost, repeated and out of order across the hops.
#[test]
fn ten_thousand_hops_of_a_message_context() {
    let domain = domain();
    let (mut context, mut peer) = pair::<Message>(&domain);
    for i in 0..10_000_u32 {
        let text = i.to_be_bytes().repeat(1 + i as usize % 40);
        let confidential = i % 3 != 0;
        let mut from_peer = peer.wrap(confidential, &text).unwrap();
        let ours = context.get_mic(&text).unwrap();
        let mut replayed = from_peer.clone();
        context = hop(context, &domain);
        let unwrapped = context.unwrap(&mut from_peer).unwrap();
        assert_eq!(unwrapped.message, &text[..]);
        assert!(unwrapped.supplementary.is_empty() && unwrapped.confidential == confidential);
        assert!(peer.verify_mic(&text, &ours).unwrap().is_empty());
        if i % 16 == 0 {
            // C2: the replay window came along.
            context = hop(context, &domain);
            let again = context.unwrap(&mut replayed).unwrap();
            assert!(again.supplementary.duplicate);
        }
    }
    assert!(context.facts().hops >= 10_000);
    talk(&mut context, &mut peer);
}

/// C8: records cut in half by the hop, key updates of both sides, output not yet sent.
#[test]
fn ten_thousand_hops_of_a_record_context() {
    let domain = domain();
    let (mut context, mut peer) = pair::<Record>(&domain);
    for i in 0..10_000_usize {
        let text = [i as u8; 600];
        let text = &text[..1 + i % 600];
        if i % 32 == 5 {
            peer.key_update(i % 64 == 5).unwrap();
        }
        if i % 32 == 9 {
            context.key_update(i % 64 == 9).unwrap();
        }
        let said = Record::say(&mut peer, text).unwrap();
        let (first, second) = said.split_at(i % said.len());
        assert_eq!(context.feed(first).unwrap(), first.len());
        context = hop(context, &domain);
        assert_eq!(context.feed(second).unwrap(), second.len());
        // Unread plaintext: a part is read before the hop, the rest after it.
        let mut heard = vec![0; text.len()];
        let half = text.len() / 2;
        let (before, after) = heard.split_at_mut(half);
        if half > 0 {
            assert_eq!(context.read(before).unwrap(), Read::Data(half));
        }
        context = hop(context, &domain);
        assert_eq!(context.read(after).unwrap(), Read::Data(text.len() - half));
        assert_eq!(heard, text);
        // Output that was sealed before the hop and leaves after it.
        assert_eq!(context.write(text).unwrap(), text.len());
        context = hop(context, &domain);
        let output = context.take_output().unwrap();
        assert_eq!(Record::hear(&mut peer, output).unwrap(), text);
    }
    talk(&mut context, &mut peer);
}

/// C8: through two hundred processes, each of which ends before the next begins.
#[test]
fn two_hundred_hops_through_two_hundred_processes() {
    let domain = domain();
    let (context, mut peer) = pair::<Record>(&domain);
    let mut token = context.export(&Export::default()).unwrap().into_bytes();
    for i in 0..200_usize {
        let question = Record::say(&mut peer, &i.to_be_bytes()).unwrap();
        let (from_child, to_parent) = pipe();
        let mut child = forked(|| {
            let mut context: Context<Record> = import(&domain, &token, None).unwrap();
            let heard = Record::hear(&mut context, question.clone()).unwrap();
            let said = Record::say(&mut context, &heard).unwrap();
            let token = context.export(&Export::default()).unwrap();
            support::write_all(&to_parent, &(said.len() as u32).to_be_bytes());
            support::write_all(&to_parent, &said);
            support::write_all(&to_parent, token.as_bytes());
            0
        });
        drop(to_parent);
        let all = support::read_all(&from_child);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let (length, rest) = all.split_first_chunk::<4>().unwrap();
        let (said, next) = rest.split_at(u32::from_be_bytes(*length) as usize);
        assert_eq!(
            Record::hear(&mut peer, said.to_vec()).unwrap(),
            i.to_be_bytes()
        );
        token = next.to_vec();
    }
    let mut context: Context<Record> = import(&domain, &token, None).unwrap();
    assert_eq!(context.facts().hops, 201);
    talk(&mut context, &mut peer);
}

fn facts_travel<F: Talk>() {
    let domain = domain();
    let (mut context, mut peer) = pair::<F>(&domain);
    context.set_user_context(UserContext::new(b"from session-init".to_vec()).unwrap());
    let mut user = UserData::default();
    user.set_user_name("anna").unwrap();
    user.add("group", "readers").unwrap();
    context.set_user_data(Some(user));
    let mut tickets = Tickets::default();
    tickets
        .push(Ticket::new(3, 7, TicketState::VALID, b"opaque".to_vec()).unwrap())
        .unwrap();
    context.set_tickets(tickets);
    let told = |context: &Context<F>| {
        let facts = context.facts();
        let tickets: Vec<_> = facts
            .tickets
            .iter()
            .map(|t| (t.module(), t.data()))
            .collect();
        format!("{facts:?} {tickets:?}").replacen(&format!("hops: {}", facts.hops), "", 1)
    };
    let (facts, id) = (told(&context), context.session_identifier());
    let (binding, mut prf) = (context.channel_binding().unwrap(), [0; 64]);
    context
        .pseudo_random(PrfKey::Full, b"input", &mut prf)
        .unwrap();
    let left = context.time_left().unwrap();
    let mut context = hop(context, &domain);
    assert_eq!(context.facts().hops, 1);
    assert_eq!(told(&context), facts);
    assert_eq!(context.session_identifier(), id);
    assert_eq!(context.channel_binding().unwrap(), binding);
    assert_eq!(peer.channel_binding().unwrap(), binding);
    for side in [&context, &peer] {
        let mut other = [0; 64];
        side.pseudo_random(PrfKey::Full, b"input", &mut other)
            .unwrap();
        assert_eq!(other, prf);
        side.pseudo_random(PrfKey::Partial, b"input", &mut other)
            .unwrap();
        assert_ne!(other, prf);
    }
    assert!(context.time_left().unwrap() <= left);
    talk(&mut context, &mut peer);
}

/// C2: names, flags, lifetime, PRF, channel bindings, session identifier, user context, user data
/// and tickets.
#[test]
fn every_fact_travels() {
    facts_travel::<Message>();
    facts_travel::<Record>();
}

/// C9: TRANS_FLAG tells the actual state.
#[test]
fn the_transferable_flag_tells_the_actual_state() {
    use baton::flags::Flags;
    let domain = domain();
    let (context, mut peer) = pair::<Record>(&domain);
    assert!(context.flags().contains(Flags::TRANSFERABLE));
    let mut context = hop(context, &domain);
    assert!(context.flags().contains(Flags::TRANSFERABLE));
    talk(&mut context, &mut peer);
    assert_eq!(in_child(|| u8::from(context.check().is_ok())), Some(0));
}
