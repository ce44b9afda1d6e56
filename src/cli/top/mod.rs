//! `baton top`: what a running server does, in a terminal.
//!
//! | room | what lives there |
//! |---|---|
//! | `course` | what was seen in the last minutes |
//! | `view` | how it is shown |
//! | `screen` | the terminal, and that it is given back |
//!
//! SECURITY: what the server tells of its peers is shown as printable ASCII; the terminal is given
//! back however this ends but by SIGKILL.

mod course;
mod screen;
mod view;

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::sys::process::Signal;
use crate::sys::signal::Watch;

use super::arguments::Top;
use super::operator::{Asking, Error};
use course::{Course, Seen};
use screen::Screen;
use view::View;

/// How often signals are looked for while no key is pressed.
const GLANCE: Duration = Duration::from_millis(100);
/// What one frame as text is made for.
const PLAIN: Rect = Rect::new(0, 0, 80, 24);

/// Shows the server until the user has seen enough.
///
/// # Errors
/// Without a terminal; when the server does not answer at the start; or the system's.
pub fn run(arguments: &Top) -> Result<(), Error> {
    let asking = Asking::new(&arguments.asked)?;
    if arguments.once {
        return once(&asking);
    }
    if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err(Error::NoTerminal);
    }
    let mut course = Course::new(look(&asking)?);
    let every = Duration::from_secs(arguments.every.into());
    // Kept from here on, so that none of them ends this process with the terminal in disorder.
    let signals = Watch::new(&[Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT])?;
    let mut screen = Screen::take()?;
    let mut view = View::default();
    let mut next = Instant::now() + every;
    loop {
        screen.draw(&mut view, &course)?;
        let left = next.saturating_duration_since(Instant::now());
        if event::poll(left.min(GLANCE))? {
            match event::read()? {
                Event::Key(key) if is_end(key) => return Ok(()),
                Event::Key(key) if key.kind != KeyEventKind::Release => view.press(key.code),
                // The next frame has the new size.
                _ => {}
            }
        }
        if signals.next()?.is_some() {
            return Ok(());
        }
        if next <= Instant::now() {
            next = Instant::now() + every;
            // A server that is away may come back.
            course.add(look(&asking).map_err(|error| error.to_string()));
        }
    }
}

fn look(asking: &Asking) -> Result<Seen, Error> {
    Ok(Seen {
        server: asking.server()?,
        sessions: asking.sessions()?,
        at: Instant::now(),
    })
}

fn is_end(key: KeyEvent) -> bool {
    let interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    interrupt || matches!(key.code, KeyCode::Char('q' | 'Q') | KeyCode::Esc)
}

fn once(asking: &Asking) -> Result<(), Error> {
    let course = Course::new(look(asking)?);
    let mut buffer = Buffer::empty(PLAIN);
    View::default().render(&course, &mut buffer);
    let mut out = io::stdout().lock();
    for line in text(&buffer) {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}

/// The lines of a frame, without their colours.
fn text(buffer: &Buffer) -> Vec<String> {
    let area = buffer.area;
    let line = |y| {
        let cells = (area.left()..area.right()).filter_map(|x| buffer.cell((x, y)));
        let line: String = cells.map(ratatui::buffer::Cell::symbol).collect();
        line.trim_end().to_owned()
    };
    (area.top()..area.bottom()).map(line).collect()
}

#[cfg(test)]
mod tests;
