//! Alerts, and the two ways to end.

use super::*;

//= proves spec/records.md#alert-in
#[test]
fn alerts_are_taken_as_the_rfc_says() {
    let known_or_not = (1..=255).filter(|code| *code != 90);
    for code in known_or_not {
        for level in [1, 2, 77] {
            let met = server_meets(|forger| forger.record(21, &[level, code]));
            assert_eq!(met, (Error::PeerAlert(Alert(code)), None));
        }
    }
    for content in [&[1][..], &[1, 0, 0], &[1, 0, 1, 0]] {
        assert_eq!(server_meets(|forger| forger.record(21, content)), MALFORMED);
    }
    let (mut server, _) = pair(Suite::Aes128Gcm);
    let mut forger = Forger::new(Suite::Aes128Gcm, false);
    let wire = [forger.record(21, &[1, 90]), forger.record(21, &[2, 0])].concat();
    assert_eq!(drain(&mut server, &wire).unwrap(), (vec![], vec![], true));
}

//= proves spec/records.md#alert-out
#[test]
fn an_abort_sends_one_alert_behind_the_data() {
    let (mut server, mut client) = pair(Suite::Aes128Gcm);
    server.write(b"last words").unwrap();
    server.abort(Alert::ACCESS_DENIED);
    server.abort(Alert::INTERNAL_ERROR);
    assert_eq!(
        server.write(b"x"),
        Err(Error::Aborted(Alert::ACCESS_DENIED))
    );
    let wire = server.take_output();
    client.feed(&wire).unwrap();
    let mut buffer = [0; 100];
    assert_eq!(client.read(&mut buffer), Ok(Read::Data(10)));
    assert_eq!(
        client.read(&mut buffer),
        Err(Error::PeerAlert(Alert::ACCESS_DENIED))
    );
    assert!(client.take_output().is_empty(), "an alert is not answered");
}

//= proves spec/records.md#alert-out
#[test]
fn no_alert_follows_a_close_notify() {
    let (mut server, mut client) = pair(Suite::Aes128Gcm);
    server.close_notify();
    drain(&mut server, &[20]).unwrap_err();
    let wire = server.take_output();
    assert_eq!(wire.len(), 2 + OVERHEAD);
    assert_eq!(drain(&mut client, &wire).unwrap(), (vec![], vec![], true));
}

//= proves spec/records.md#half-close
#[test]
fn each_direction_closes_by_itself() {
    let (mut server, mut client) = pair(Suite::Aes128Gcm);
    client.write(b"all I have to say").unwrap();
    client.close_notify();
    client.close_notify();
    assert_eq!(client.write(b"x"), Err(Error::ClosedHere));
    assert_eq!(client.seal(b"x", &mut Vec::new()), Err(Error::ClosedHere));
    assert_eq!(
        client.seal_in_place(&mut [0; 64], 1),
        Err(Error::ClosedHere)
    );
    assert_eq!(client.key_update(true), Err(Error::ClosedHere));
    let wire = [&client.take_output()[..], b"noise behind the end"].concat();
    assert_eq!(
        drain(&mut server, &wire).unwrap(),
        (b"all I have to say".to_vec(), vec![], true)
    );
    assert!(server.peer_closed() && !server.closed() && client.closed() && !client.peer_closed());
    assert_eq!(server.buffered(), 0);
    assert_eq!(
        server.feed(&[0; 100_000]),
        Ok(100_000),
        "ignored, and not kept"
    );
    // The other direction goes on, with new keys, until it closes.
    server.write(b"answer").unwrap();
    server.key_update(true).unwrap();
    server.write(b"s").unwrap();
    assert_eq!(
        drain(&mut client, &server.take_output()).unwrap().0,
        b"answers"
    );
    assert!(
        client.take_output().is_empty(),
        "who has closed owes no answer"
    );
    server.close_notify();
    assert!(drain(&mut client, &server.take_output()).unwrap().2);
    let mut noise = vec![20; 50];
    let opened = client.open(&mut noise).unwrap();
    assert!(matches!(
        opened,
        Opened {
            consumed: 50,
            event: Event::Closed
        }
    ));
}

#[test]
fn a_forked_copy_is_dead() {
    use crate::sys::process::{Fork, exit_now, fork};

    let (mut server, mut client) = pair(Suite::Aes128Gcm);
    client.write(b"unread").unwrap();
    let mut wire = client.take_output();
    server.feed(&wire).unwrap();
    server.write(b"unsent").unwrap();
    let dead = Err(Error::Forked);
    match fork().unwrap() {
        Fork::Child => {
            server.close_notify();
            server.abort(Alert::INTERNAL_ERROR);
            let refused = [
                server.seal(b"x", &mut Vec::new()) == dead,
                server.seal_in_place(&mut [0; 64], 1).map(drop) == dead,
                server.write(b"x").map(drop) == dead,
                server.key_update(true) == dead,
                server.open(&mut wire).map(drop) == dead,
                server.feed(b"x").map(drop) == dead,
                server.read(&mut [0; 9]).map(drop) == dead,
                server.ready().map(drop) == dead,
                server.output().is_empty() && server.take_output().is_empty(),
                server.freeze().is_none() && server.failed().is_none() && !server.closed(),
                Access::record(&mut server, Pass(())).is_err(),
                format!("{server:?}").contains("Aes128Gcm"),
            ];
            drop(server);
            exit_now(refused.iter().filter(|refused| **refused).count() as u8);
        }
        Fork::Parent(mut child) => assert_eq!(child.wait().unwrap().code(), Some(12)),
    }
    assert_eq!(drain(&mut server, b"").unwrap().0, b"unread");
    assert_eq!(
        drain(&mut client, &server.take_output()).unwrap().0,
        b"unsent"
    );
}
