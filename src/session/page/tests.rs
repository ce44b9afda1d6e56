use super::*;
use http::{MAX_HEAD, head};

fn about() -> About {
    About {
        session: [0xab; 16].into(),
        remote: "192.0.2.1:1234".parse().unwrap(),
        local: "192.0.2.2:4433".parse().unwrap(),
        cipher: "TLS_AES_256_GCM_SHA384",
        framing: "record",
        user: Some("<b>".to_owned()),
        resumed: false,
        handshake_process: 10,
        processes: vec![11, 12, 13],
        hops: 3,
    }
}

/// Lets a page work on `input`, given in pieces of `piece` bytes, until it wants no more of it.
fn serve(input: &[u8], piece: usize, ended: bool) -> (String, Wish) {
    let (mut page, mut flow, about) = (Page::default(), Flow::default(), about());
    let mut output = Vec::new();
    let mut wish = Wish::Wait;
    let mut rest = input;
    loop {
        let given = flow.inbox.push(&rest[..rest.len().min(piece)]);
        rest = &rest[given..];
        flow.peer_ended = ended && rest.is_empty();
        wish = match page.work(&mut flow, &about) {
            Wish::Wait => wish,
            other => other,
        };
        let idle = flow.outbox.is_empty();
        output.extend_from_slice(flow.outbox.as_slice());
        flow.outbox.clear();
        if idle && (rest.is_empty() || wish == Wish::End) {
            return (String::from_utf8(output).unwrap(), wish);
        }
    }
}

#[test]
fn the_page_tells_the_processes_and_the_session() {
    let (answer, wish) = serve(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 7, false);
    assert_eq!(wish, Wish::Wait);
    insta::assert_snapshot!(answer.replace('\r', ""), @r"
    HTTP/1.1 200 OK
    Content-Type: text/plain; charset=utf-8
    Content-Length: 332
    Cache-Control: no-store
    X-Content-Type-Options: nosniff

    This connection was handed from process to process, alive.

    session      abababababababababababababababab
    protocol     TLSv1.3, record framing
    cipher       TLS_AES_256_GCM_SHA384
    resumed      no
    peer         192.0.2.1:1234
    user         <b>
    handshake    process 10
    served by    process 13
    after        processes 11 12
    hops         3
    ");
}

#[test]
fn html_is_for_those_who_accept_it_and_is_escaped() {
    let (answer, _) = serve(b"GET / HTTP/1.1\r\nAccept: text/html\r\n\r\n", 4096, false);
    assert!(answer.contains("Content-Type: text/html; charset=utf-8\r\n"));
    assert!(answer.contains("<tr><th>user<td>&lt;b&gt;\n"));
    let length = answer
        .split("Content-Length: ")
        .nth(1)
        .unwrap()
        .split("\r\n")
        .next()
        .unwrap();
    assert_eq!(
        answer.split("\r\n\r\n").nth(1).unwrap().len(),
        length.parse::<usize>().unwrap()
    );
}

#[test]
fn a_connection_serves_requests_until_one_says_close() {
    let two = b"GET / HTTP/1.1\r\n\r\nHEAD / HTTP/1.1\r\n\r\nGET /x HTTP/1.1\r\nConnection: a, Close\r\n\r\nGET / HTTP/1.1\r\n\r\n";
    for piece in [1, 20, 4096] {
        let (answer, wish) = serve(two, piece, false);
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2);
        assert_eq!(answer.matches("HTTP/1.1 404 Not Found").count(), 1);
        assert_eq!(answer.matches("This connection").count(), 1);
        assert_eq!(wish, Wish::End);
    }
    assert_eq!(serve(b"GET / HTTP/1.0\r\n\r\n", 4096, false).1, Wish::End);
}

#[test]
fn a_body_is_summed_in_any_pieces() {
    let request = b"PUT /sum HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc";
    for piece in [1, 3, 4096] {
        let (answer, _) = serve(request, piece, false);
        assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"));
        assert!(answer.ends_with(
            "\r\n\r\nba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"
        ));
    }
}

#[test]
fn the_answer_waits_for_the_hops() {
    let (mut page, mut flow, about) = (Page::default(), Flow::default(), about());
    flow.hops_left = 2;
    flow.inbox.push(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(page.work(&mut flow, &about), Wish::Hops);
    assert!(flow.outbox.is_empty());
    flow.hops_left = 0;
    assert_eq!(page.work(&mut flow, &about), Wish::Wait);
    assert!(!flow.outbox.is_empty());
}

#[test]
fn a_peer_that_ends_in_the_middle_is_not_answered() {
    for request in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PUT /sum HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc",
        b"",
    ] {
        assert_eq!(serve(request, 4096, true), (String::new(), Wish::End));
    }
}

#[test]
fn a_client_that_reads_no_answers_is_not_served_further() {
    let (mut page, mut flow, about) = (Page::default(), Flow::default(), about());
    for _ in 0..10_000 {
        flow.inbox.push(b"GET / HTTP/1.1\r\n\r\n");
        page.work(&mut flow, &about);
    }
    assert!(flow.outbox.room() < FREE && flow.inbox.room() < 20);
}

#[test]
fn malformed_requests_are_refused_by_their_fault() {
    use Refusal::*;
    let long = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(MAX_HEAD));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101));
    for (text, refusal) in [
        ("\r\n\r\n", Malformed),
        ("GET /\r\n\r\n", Malformed),
        ("GET  / HTTP/1.1\r\n\r\n", Malformed),
        ("GET / HTTP/1.1 \r\n\r\n", Malformed),
        ("GET / ICY/1.1\r\n\r\n", Malformed),
        ("GET / HTTP/2.0\r\n\r\n", Version),
        ("BREW / HTTP/1.1\r\n\r\n", Method),
        ("GET / HTTP/1.1\r\nNo colon\r\n\r\n", Malformed),
        ("GET / HTTP/1.1\r\nSpace : x\r\n\r\n", Malformed),
        ("GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", Malformed),
        (
            "PUT /sum HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            Malformed,
        ),
        ("PUT /sum HTTP/1.1\r\nContent-Length: +3\r\n\r\n", Malformed),
        (
            "PUT /sum HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n",
            Malformed,
        ),
        (
            "PUT /sum HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            LengthRequired,
        ),
        ("PUT /sum HTTP/1.1\r\n\r\n", LengthRequired),
        (&long, TooLarge),
        (&many, TooLarge),
    ] {
        assert_eq!(head(text.as_bytes()), Err(refusal), "{text:.60}");
        let (answer, wish) = serve(text.as_bytes(), 4096, false);
        assert!(answer.starts_with(&format!("HTTP/1.1 {}\r\n", refusal.status())));
        assert_eq!(wish, Wish::End);
    }
    assert_eq!(head(b"GET / HTTP/1.1\r\nA: \xff\r\n\r\n"), Err(Malformed));
}

proptest::proptest! {
    #[test]
    fn no_bytes_break_the_page(bytes: Vec<u8>, piece in 1usize..9, prefix in 0usize..3) {
        let mut input = [&b""[..], b"GET / HTTP/1.1\r\n", b"PUT /sum HTTP/1.1\r\nContent-Length:"][prefix].to_vec();
        input.extend_from_slice(&bytes);
        serve(&input, piece, true);
    }
}
