//! The manual pages `dist/baton.1` and `dist/baton.toml.5`, made of the same words as `--help`.
//!
//! Invariant: every command, option and key is in them. `BATON_WRITE=1 cargo test --lib manual`
//! writes them.

use std::path::PathBuf;
use std::process::{Command as Program, Stdio};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::arguments::Arguments;
use super::configuration::KEYS;

/// When their words were last changed by more than a little.
const DATE: &str = "2026-11-23";

type Section = fn(&Man, &mut Vec<u8>) -> std::io::Result<()>;

/// A part of a page, as clap's words make it.
fn part(man: &Man, section: Section) -> String {
    let mut bytes = Vec::new();
    section(man, &mut bytes).unwrap();
    // What clap_mangen puts before each part stands once at the top of the page.
    let text = String::from_utf8(bytes).unwrap();
    let preamble = |line: &&str| !line.starts_with(".ie ") && !line.starts_with(".el ");
    let lines: Vec<&str> = text.lines().filter(preamble).collect();
    lines.join("\n") + "\n"
}

/// Text that stands as it is.
fn plain(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let lines = escaped.lines().map(|line| match line.chars().next() {
        Some('.' | '\'') => format!("\\&{line}\n"),
        Some(_) => format!("{line}\n"),
        None => ".PP\n".to_owned(),
    });
    lines.collect()
}

const TOP: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

fn subcommands(command: &Command, path: &str, page: &mut String) {
    for subcommand in command.get_subcommands() {
        let name = format!("{path} {}", subcommand.get_name());
        if subcommand.get_name() == "help" {
            continue;
        }
        let man = Man::new(
            subcommand
                .clone()
                .display_name(name.clone())
                .bin_name(&name),
        );
        *page += &format!(".SH \"{}\"\n", name.to_uppercase());
        let synopsis = part(&man, |man, out| man.render_synopsis_section(out));
        *page += &synopsis.replace(".SH SYNOPSIS\n", "");
        *page += ".PP\n";
        let description = part(&man, |man, out| man.render_description_section(out));
        *page += &description.replace(".SH DESCRIPTION\n", "");
        let options = part(&man, |man, out| man.render_options_section(out));
        *page += &options.replace(".SH ", ".SS ");
        let long = subcommand.get_after_long_help();
        if let Some(long) = long.map(ToString::to_string) {
            *page += ".SS NOTES\n";
            *page += &plain(&long);
        }
        subcommands(subcommand, &name, page);
    }
}

fn baton_1() -> String {
    let mut command = Arguments::command();
    command.build();
    let man = Man::new(command.clone());
    let mut page = String::from(TOP);
    let version = env!("CARGO_PKG_VERSION");
    page += &format!(".TH baton 1 {DATE} \"baton {version}\" \"User Commands\"\n");
    page += &part(&man, |man, out| man.render_name_section(out));
    page += &part(&man, |man, out| man.render_synopsis_section(out));
    page += &part(&man, |man, out| man.render_options_section(out));
    subcommands(&command, "baton", &mut page);
    page += ".SH FILES\n.TP\n~/.local/state/baton\nThe state folder: the development identity, and the control socket.\n\
             .SH \"EXIT STATUS\"\n0 done, 1 failed (standard error says why), 2 wrong usage, 130 interrupted.\n\
             .SH \"SEE ALSO\"\n.BR baton.toml (5)\n";
    page
}

fn baton_toml_5() -> String {
    let command = Arguments::command();
    let serve = command.find_subcommand("serve").unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(
        "{TOP}.TH baton.toml 5 {DATE} \"baton {version}\" \"File Formats\"\n\
         .SH NAME\nbaton.toml \\- configuration of baton serve\n.SH DESCRIPTION\n"
    );
    page += &plain(
        "The file that --config names is TOML in UTF-8, at most 64 KiB, with the keys below at its top\n\
         and no tables. A key means what the option of its name means (baton(1)); an option on the command\n\
         line counts before it. baton serve --check --config FILE names every mistake. At SIGHUP the server\n\
         reads the file once more, and takes all of it over or nothing; listen, state and control cannot\n\
         change.",
    );
    page += ".SH KEYS\n";
    for (name, kind) in KEYS {
        let argument = serve
            .get_arguments()
            .find(|argument| argument.get_long() == Some(name))
            .unwrap();
        let help = argument
            .get_long_help()
            .or(argument.get_help())
            .unwrap()
            .to_string();
        let name = plain(name);
        page += &format!(".TP\n.B {}", name);
        page += &plain(&format!("{} ({}).", kind.name(), kind.bounds()));
        let end = if help.ends_with('.') { "" } else { "." };
        page += &plain(&(help + end)).replace(".PP\n", ".IP\n");
        let defaults = argument.get_default_values();
        if let Some(default) = defaults.first().and_then(|default| default.to_str()) {
            page += &plain(&format!("The default is {default}."));
        }
    }
    page += ".SH \"SEE ALSO\"\n.BR baton (1)\n";
    page
}

fn pages() -> [(PathBuf, String); 2] {
    let dist = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("dist");
    [
        (dist.join("baton.1"), baton_1()),
        (dist.join("baton.toml.5"), baton_toml_5()),
    ]
}

#[test]
fn the_manual_pages_are_up_to_date() {
    for (path, page) in pages() {
        if std::env::var_os("BATON_WRITE").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            there == page,
            "{}: run `BATON_WRITE=1 cargo test --lib manual`",
            path.display()
        );
    }
}

#[test]
fn the_manual_pages_name_everything() {
    fn names(command: &Command, path: &str, page: &str) {
        for subcommand in command.get_subcommands() {
            let path = format!("{path} {}", subcommand.get_name());
            let title = format!(".SH \"{}\"\n", path.to_uppercase());
            assert_eq!(page.matches(&title).count(), 1, "{path}");
            let section = page.split(&title).nth(1).unwrap();
            let section = section.split(".SH \"").next().unwrap();
            for argument in subcommand.get_arguments() {
                let name = match (argument.get_long(), argument.get_value_names()) {
                    (Some(long), _) => format!("\\-\\-{}", long.replace('-', "\\-")),
                    (None, Some(names)) => names[0].to_string(),
                    (None, None) => continue,
                };
                assert!(section.contains(&name), "{path}: {name}");
            }
            names(subcommand, &path, page);
        }
    }
    let [(_, commands), (_, keys)] = pages();
    names(&Arguments::command(), "baton", &commands);
    for (name, _) in KEYS {
        let title = format!(".TP\n.B {}\n", name.replace('-', "\\-"));
        assert_eq!(keys.matches(&title).count(), 1, "{name}");
    }
    // Words of the service that the page must not be without.
    for word in ["no_new_privs", "GET /metrics", "SIGHUP"] {
        assert!(commands.contains(word), "{word}");
    }
}

/// A checker of manual pages that is installed; it says nothing when there is nothing to say.
fn silent(program: &str, arguments: &[&str], path: &PathBuf) {
    let mut command = Program::new(program);
    command.args(arguments).arg(path).env("MANROFFSEQ", "");
    command.stdin(Stdio::null());
    match command.output() {
        Err(_) => eprintln!("skipped: {program} is not installed"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let found = String::from_utf8_lossy(&output.stdout);
            let found = if program == "mandoc" { &found[..] } else { "" };
            assert!(
                said.is_empty() && found.is_empty() && output.status.success(),
                "{program}: {said}{found}"
            );
        }
    }
}

#[test]
fn the_manual_pages_are_read_without_complaint() {
    for (path, _) in pages() {
        silent("mandoc", &["-Tlint", "-Wwarning"], &path);
        silent("man", &["--warnings", "-E", "UTF-8", "-l", "-Tutf8"], &path);
    }
}
