use super::*;
use crate::exit::{Question, SessionInit, UserContext};

fn pool(script: &str) -> Pool {
    let mut configuration = Configuration::new("test", "/bin/sh");
    configuration.arguments = vec!["-c".into(), script.into()];
    configuration.deadline = Duration::from_secs(3600);
    Pool::new(configuration, Box::new(|_, _| ())).unwrap()
}

fn ask(pool: &mut Pool, number: u64) -> u64 {
    let mut session = [0; 16];
    session[..8].copy_from_slice(&number.to_ne_bytes());
    let question: Question = SessionInit::default().into();
    pool.ask(session.into(), &UserContext::default(), question, number)
}

/// One that waits long keeps what is behind it in order, and not what is past.
#[test]
fn what_is_past_is_not_kept_behind_what_takes_long() {
    let mut waits = pool("exec sleep 300");
    ask(&mut waits, 0);
    for number in 1..2000 {
        let asked = ask(&mut waits, number);
        waits.cancel(asked);
    }
    assert_eq!(waits.queue_length(), 1);
    assert!(waits.waiting.len() < 300, "{}", waits.waiting.len());
    assert!(waits.next_deadline().is_some());

    // Everything is answered but the first question.
    let mut asks = pool(
        r#"echo '{"type":"hello","version":1,"families":["tls"],"holds":9}'; read -r line; read -r line
        while IFS= read -r line; do
            number=${line#*\"number\":}; session=${line#*\"session\":\"}
            printf '{"type":"answer","number":%s,"session":"%s","return_code":0}\n' \
                "${number%%,*}" "${session%%\"*}"
        done"#,
    );
    ask(&mut asks, 0);
    for number in 1..500 {
        let session = {
            ask(&mut asks, number);
            loop {
                asks.turn(None).unwrap();
                if let Some(Event::Completed(done)) = asks.next_event() {
                    break done.session;
                }
            }
        };
        asks.forget(session);
    }
    assert!(asks.asked.len() < 300, "{}", asks.asked.len());
    assert_eq!((asks.calls.len(), asks.sessions.len()), (1, 1));
}
