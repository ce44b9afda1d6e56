use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::server::control::answer::{Contexts, Process, Server, Session};

fn session(number: u8) -> Session {
    Session {
        session: format!("{number:02x}").repeat(16),
        remote: format!("192.0.2.{number}:50000").parse().unwrap(),
        local: "192.0.2.1:4433".parse().unwrap(),
        user: number
            .is_multiple_of(2)
            .then(|| "al\u{1b}[2J\u{202e}ice".to_owned()),
        process: 1000 + u32::from(number),
        since: 0,
        seconds: u64::from(number) * 50,
        framing: "record".to_owned(),
        cipher: "TLS_AES_256_GCM_SHA384".to_owned(),
        hops: 10u64.saturating_sub(number.into()),
        received: None,
        sent: None,
    }
}

fn seen(look: u64, sessions: u8, began: Instant) -> Seen {
    let mut server = Server {
        program: "0.1.0".to_owned(),
        address: "192.0.2.1:4433".parse().ok(),
        since: 1,
        milliseconds: 3_700_000,
        accepting: true,
        sessions: sessions.into(),
        sessions_limit: 1000,
        processes: ["supervisor", "handshaker", "zygote"]
            .map(|role| Process {
                role: role.to_owned(),
                process: 7,
                resident: 5 << 20,
            })
            .to_vec(),
        contexts: Contexts {
            active: sessions.into(),
            ..Contexts::default()
        },
        ..Server::default()
    };
    let tally = &mut server.tally;
    tally.handshakes.refused.garbage = look;
    tally.sessions.hops = look * look * 40;
    for _ in 0..look * 3 {
        tally.handshakes.established(Duration::from_millis(2));
    }
    Seen {
        server,
        sessions: (1..=sessions).map(session).collect(),
        at: began + Duration::from_secs(look),
    }
}

fn course(looks: u64, sessions: u8) -> Course {
    let began = Instant::now();
    let mut course = Course::new(seen(0, sessions, began));
    for look in 1..looks {
        course.add(Ok(seen(look, sessions, began)));
    }
    course
}

fn frame(view: &mut View, course: &Course, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| view.render(course, frame.buffer_mut()))
        .unwrap();
    text(terminal.backend().buffer())
}

#[test]
fn a_frame_shows_the_server() {
    let lines = frame(&mut View::default(), &course(20, 5), 80, 24);
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn no_size_is_too_small_and_none_too_large() {
    let course = course(300, 30);
    let mut view = View::default();
    view.press(KeyCode::End);
    for width in [0, 1, 2, 3, 5, 10, 20, 40, 79, 80, 200, 400] {
        for height in [0, 1, 2, 3, 4, 5, 8, 9, 10, 23, 24, 25, 100] {
            // A terminal of no size is what some report.
            let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
            view.render(&course, &mut buffer);
            for line in text(&buffer) {
                assert!(!line.contains(['\u{1b}', '\u{202e}']), "{line}");
            }
        }
    }
}

#[test]
fn keys_move_and_sort() {
    let course = course(2, 9);
    let mut view = View::default();
    let first = |view: &mut View| {
        let lines = frame(view, &course, 80, 24);
        let title = lines.iter().position(|line| line.starts_with("SESSION"));
        lines[title.unwrap() + 1][..8].to_owned()
    };
    assert_eq!(first(&mut view), "09090909", "the oldest");
    view.press(KeyCode::Char('r'));
    assert_eq!(first(&mut view), "01010101");
    for _ in 0..3 {
        view.press(KeyCode::Right);
    }
    assert_eq!(first(&mut view), "09090909", "the fewest hops");
    view.press(KeyCode::Right);
    assert_eq!(first(&mut view), "01010101", "by identifier");
    view.press(KeyCode::Left);
    assert_eq!(first(&mut view), "09090909");
    // In three rows, the one that is chosen is always there.
    let mut view = View::default();
    view.press(KeyCode::Down);
    for key in [
        KeyCode::End,
        KeyCode::PageUp,
        KeyCode::PageDown,
        KeyCode::Home,
        KeyCode::Up,
    ] {
        frame(&mut view, &course, 80, 13);
        view.press(key);
        frame(&mut view, &course, 80, 13);
        assert!(view.offset <= view.selected && view.selected < view.offset + 4);
    }
    assert_eq!(view.selected, 0);
}

#[test]
fn counts_become_rates_and_a_new_server_has_none() {
    let mut course = course(3, 0);
    assert_eq!(course.rates.handshakes, [3000, 3000]);
    assert_eq!(course.rates.refused, [1000, 1000]);
    assert_eq!(course.rates.hops, [40_000, 120_000]);
    assert_eq!(course.rates.latency, [2000, 2000]);
    course.add(Err("gone".to_owned()));
    let lines = frame(&mut View::default(), &course, 80, 24);
    assert!(lines[0].contains("lost: gone"), "{}", lines[0]);
    let mut anew = seen(100, 0, Instant::now());
    anew.server.since = 2;
    course.add(Ok(anew));
    assert_eq!(course.rates.hops.back(), Some(&0));
    assert!(course.lost.is_none());
    let began = Instant::now();
    for look in 0..1000 {
        course.add(Ok(seen(look % 3, 0, began)));
    }
    assert!(course.rates.hops.len() <= 240);
}

/// Run once more, as a child in a terminal: there it panics.
#[test]
fn a_panic_gives_the_terminal_back_before_it_is_told() {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::tcgetattr;

    const NAME: &str = "cli::top::tests::a_panic_gives_the_terminal_back_before_it_is_told";
    const CHILD: &str = "BATON_TEST_PANICS";
    if std::env::var_os(CHILD).is_some() {
        let mut screen = Screen::take().unwrap();
        screen.draw(&mut View::default(), &course(1, 1)).unwrap();
        panic!("in the middle of a frame");
    }
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&user).unwrap();
    unlockpt(&user).unwrap();
    let name = ptsname(&user, Vec::new()).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let terminal = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
    let before = tcgetattr(&terminal).unwrap();
    let end = || Stdio::from(terminal.try_clone().unwrap());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(CHILD, "1")
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    let mut written = String::new();
    let mut bytes = [0; 4096];
    let mut user = std::fs::File::from(user);
    while !written.contains("in the middle of a frame") {
        let count = user.read(&mut bytes).unwrap();
        written += &String::from_utf8_lossy(&bytes[..count]);
    }
    // The harness has more to say, and the terminal room for it.
    assert!(!child.wait().unwrap().success());
    let (screen, told) = written.split_once("\u{1b}[?1049l").unwrap();
    assert!(screen.contains("\u{1b}[?1049h") && !screen.contains("in the middle"));
    assert!(told.contains("in the middle of a frame"), "{told}");
    let after = tcgetattr(&terminal).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
    assert_eq!(after.input_modes, before.input_modes);
    assert_eq!(after.output_modes, before.output_modes);
}
