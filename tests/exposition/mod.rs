//! A strict reader of Prometheus text, version 0.0.4: what it accepts, any scraper does.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

/// Every sample by its name and labels, as written.
pub type Samples = BTreeMap<String, f64>;

/// Reads `text`, or says what is wrong with it.
pub fn read(text: &str) -> Result<Samples, String> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("no line feed at the end".to_owned());
    }
    let (mut samples, mut families) = (Samples::new(), BTreeSet::new());
    let mut family: Option<(String, String)> = None;
    let mut helped: Option<String> = None;
    for line in text.lines() {
        let wrong = |what: &str| Err(format!("{what}: {line}"));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let Some((name, help)) = rest.split_once(' ') else {
                return wrong("no help");
            };
            if !is_name(name) || help.trim() != help || help.is_empty() {
                return wrong("a bad name or help");
            }
            if !families.insert(name.to_owned()) {
                return wrong("a family twice");
            }
            helped = Some(name.to_owned());
            family = None;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else {
                return wrong("no type");
            };
            if helped.take().as_deref() != Some(name) {
                return wrong("a type without its help before it");
            }
            if !["counter", "gauge", "histogram"].contains(&kind) {
                return wrong("an unknown type");
            }
            if (kind == "counter") != name.ends_with("_total") {
                return wrong("counters end in _total, and nothing else does");
            }
            family = Some((name.to_owned(), kind.to_owned()));
        } else {
            let Some((name, kind)) = &family else {
                return wrong("a sample without its family");
            };
            let (sample, labels, value) = sample(line)?;
            let suffix = sample.strip_prefix(name.as_str());
            let fits = match kind.as_str() {
                "histogram" => {
                    let is_bucket = suffix == Some("_bucket");
                    is_bucket == labels.contains_key("le")
                        && matches!(suffix, Some("_bucket" | "_sum" | "_count"))
                }
                _ => suffix == Some("") && !labels.contains_key("le"),
            };
            if !fits {
                return wrong("a sample of another family");
            }
            if kind != "gauge" && (value < 0.0 || value.is_nan()) {
                return wrong("a count below zero");
            }
            let key = line.rsplit_once(' ').unwrap().0.to_owned();
            if samples.insert(key, value).is_some() {
                return wrong("a sample twice");
            }
            if kind == "histogram" && suffix == Some("_count") {
                histogram(name, text, value)?;
            }
        }
    }
    Ok(samples)
}

/// The buckets of a histogram are in order, grow, and end in its count.
fn histogram(name: &str, text: &str, count: f64) -> Result<(), String> {
    let prefix = format!("{name}_bucket{{le=\"");
    let buckets: Vec<(f64, f64)> = text
        .lines()
        .filter_map(|line| {
            let (bound, value) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
            Some((bound.parse().ok()?, value.parse().ok()?))
        })
        .collect();
    let grows = buckets
        .windows(2)
        .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
    match buckets.last() {
        Some((bound, total)) if grows && *bound == f64::INFINITY && *total == count => Ok(()),
        _ => Err(format!("{name}: buckets {buckets:?} of {count}")),
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

type Sample = (String, BTreeMap<String, String>, f64);

fn sample(line: &str) -> Result<Sample, String> {
    let wrong = |what: &str| format!("{what}: {line}");
    let end = line.find(['{', ' ']).ok_or_else(|| wrong("no value"))?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name) {
        return Err(wrong("a bad name"));
    }
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest
                .split_once("=\"")
                .ok_or_else(|| wrong("a label without a value"))?;
            if !is_name(label) {
                return Err(wrong("a bad label"));
            }
            let (mut value, mut chars) = (String::new(), after.char_indices());
            let at = loop {
                match chars.next() {
                    Some((at, '"')) => break at,
                    Some((_, '\\')) => match chars.next() {
                        Some((_, 'n')) => value.push('\n'),
                        Some((_, c @ ('\\' | '"'))) => value.push(c),
                        _ => return Err(wrong("a bad escape")),
                    },
                    Some((_, c)) => value.push(c),
                    None => return Err(wrong("a label without an end")),
                }
            };
            if labels.insert(label.to_owned(), value).is_some() {
                return Err(wrong("a label twice"));
            }
            rest = &after[at + 1..];
            match rest.split_at_checked(1) {
                Some((",", more)) => rest = more,
                Some(("}", more)) => {
                    rest = more;
                    break;
                }
                _ => return Err(wrong("labels without an end")),
            }
        }
    }
    let value = rest.strip_prefix(' ').ok_or_else(|| wrong("no value"))?;
    let value: f64 = value.parse().map_err(|_| wrong("a bad value"))?;
    Ok((name.to_owned(), labels, value))
}

#[test]
fn the_reader_of_prometheus_text_is_strict() {
    let good = "# HELP a_total x\n# TYPE a_total counter\na_total{b=\"c\\\"\\\\\\n\"} 1\na_total 2\n\
                # HELP h x\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\n\
                h_sum 0.5\nh_count 2\n";
    assert_eq!(read(good).unwrap().len(), 6);
    for (from, to) in [
        ("a_total 2\n", "a_total 2"),
        ("# HELP h x\n", ""),
        ("# TYPE h histogram\n", ""),
        ("a_total 2", "a_total{b=\"c\\\"\\\\\\n\"} 2"),
        ("a_total 2", "a_total -1"),
        ("a_total 2", "a_total  2"),
        ("a_total 2", "a_total x"),
        ("a_total 2", "b_total 2"),
        ("a_total 2", "a_total{b=\"c} 2"),
        ("a_total 2", "a_total{b=\"c\",b=\"d\"} 2"),
        ("a_total 2", "a_total{2=\"c\"} 2"),
        ("counter", "gauge"),
        ("histogram", "summary"),
        ("h_count 2", "h_count 3"),
        ("\"1\"} 1", "\"1\"} 3"),
        ("h_bucket{le=\"+Inf\"} 2\n", ""),
        ("# HELP h x", "# HELP a_total x"),
    ] {
        let bad = match to {
            "a_total 2" => good.replace("h_count 2\n", "h_count 2"),
            _ => good.replacen(from, to, 1),
        };
        assert!(read(&bad).is_err(), "{bad}");
    }
}
