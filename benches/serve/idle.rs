//! What an idle session's process has for itself, with many beside it.

use std::net::SocketAddr;

use super::clients::Clients;

/// Prints the median of all session processes of the server with this number.
pub(super) fn run(clients: &Clients, server: u32, address: SocketAddr, count: usize) {
    let held: Vec<_> = (0..count).map(|_| clients.hold(address).unwrap()).collect();
    let mut private = Vec::new();
    let mut tables = Vec::new();
    for process in sessions(server) {
        let Some((bytes, table)) = of(process) else {
            println!("bytes_per_session_process not measured: the kernel does not tell this user");
            return;
        };
        private.push(bytes);
        tables.push(table);
    }
    assert!(private.len() >= count, "{} of {count}", private.len());
    println!(
        "figure: bytes_per_session_process = {:.0} bytes",
        super::median(private)
    );
    println!(
        "figure: page_tables_per_session_process = {:.0} bytes",
        super::median(tables)
    );
    drop(held);
}

/// The grandchildren of a server: its zygote's children.
fn sessions(server: u32) -> Vec<u32> {
    let numbers = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|process| parent(*process).and_then(parent) == Some(server))
        .collect()
}

fn parent(process: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
}

/// Bytes of memory that no other process shares, and of page tables.
fn of(process: u32) -> Option<(f64, f64)> {
    let rollup = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let sum = |text: &str, names: &[&str]| {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let named = lines.filter(|(name, _)| names.contains(name));
        let numbers =
            named.filter_map(|(_, rest)| rest.split_whitespace().next()?.parse::<f64>().ok());
        numbers.sum::<f64>() * 1024.0
    };
    Some((
        sum(&rollup, &["Private_Clean", "Private_Dirty"]),
        sum(&status, &["VmPTE"]),
    ))
}
