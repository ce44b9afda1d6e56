//! One frame: what is where, and what keys change.
//!
//! Invariants: it draws inside its buffer, whatever the size of that; every text is printable.

use std::collections::VecDeque;
use std::time::Duration;

use crossterm::event::KeyCode;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Sparkline, StatefulWidget, Table, TableState, Widget};

use crate::server::control::answer::{Server, Session};
use crate::session::log::Escaped;

use super::super::operator::{age, bytes};
use super::super::sessions::{COLUMNS, row};
use super::course::Course;

/// Rows that page up and page down move by.
const PAGE: usize = 10;
/// Digits of a session's identifier that are shown.
const DIGITS: usize = 8;

/// What the user has chosen.
pub(super) struct View {
    /// The column to sort by.
    sort: usize,
    reversed: bool,
    pub(super) selected: usize,
    /// The first row that was shown.
    pub(super) offset: usize,
    /// Rows there were in the last frame.
    rows: usize,
}

impl Default for View {
    /// The oldest first.
    fn default() -> Self {
        Self {
            sort: 4,
            reversed: true,
            selected: 0,
            offset: 0,
            rows: 0,
        }
    }
}

impl View {
    /// Does what a key asks for.
    pub(super) fn press(&mut self, key: KeyCode) {
        match key {
            KeyCode::Up => self.selected = self.selected.saturating_sub(1),
            KeyCode::Down => self.selected += 1,
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(PAGE),
            KeyCode::PageDown => self.selected += PAGE,
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = usize::MAX,
            KeyCode::Left => self.sort = (self.sort + COLUMNS.len() - 1) % COLUMNS.len(),
            KeyCode::Right => self.sort = (self.sort + 1) % COLUMNS.len(),
            KeyCode::Char('r' | 'R') => self.reversed = !self.reversed,
            _ => {}
        }
        self.selected = self.selected.min(self.rows.saturating_sub(1));
    }

    /// Draws a frame.
    pub(super) fn render(&mut self, course: &Course, buffer: &mut Buffer) {
        let heights = [
            Constraint::Length(4),
            Constraint::Length(4),
            Constraint::Min(0),
            Constraint::Length(1),
        ];
        let [head, plots, list, keys] = Layout::vertical(heights).areas(buffer.area);
        heading(course).render(head, buffer);
        draw_plots(course, plots, buffer);
        self.list(&course.last.sessions, list, buffer);
        let help = "q end  up/down move  left/right sort  r reverse";
        Paragraph::new(help)
            .style(Style::new().add_modifier(Modifier::DIM))
            .render(keys, buffer);
    }

    fn list(&mut self, sessions: &[Session], area: Rect, buffer: &mut Buffer) {
        let mut sessions: Vec<&Session> = sessions.iter().collect();
        sessions.sort_by(|one, other| {
            let order = match self.sort {
                0 => one.session.cmp(&other.session),
                1 => one.remote.cmp(&other.remote),
                2 => one.user.cmp(&other.user),
                3 => one.process.cmp(&other.process),
                4 => one.seconds.cmp(&other.seconds),
                5 => one.framing.cmp(&other.framing),
                6 => one.cipher.cmp(&other.cipher),
                _ => one.hops.cmp(&other.hops),
            };
            // Of equals, always the same one first.
            let order = match self.reversed {
                true => order.reverse(),
                false => order,
            };
            order.then_with(|| one.session.cmp(&other.session))
        });
        self.rows = sessions.len();
        self.selected = self.selected.min(self.rows.saturating_sub(1));
        let titles = COLUMNS.iter().enumerate().map(|(at, title)| {
            if at == self.sort {
                let arrow = if self.reversed { 'v' } else { '^' };
                Line::from(format!("{title}{arrow}"))
            } else {
                Line::from(*title)
            }
        });
        let bold = Style::new().add_modifier(Modifier::BOLD);
        // What cannot be seen is not made: there may be very many.
        let shown = usize::from(area.height.saturating_sub(1));
        let most = self.rows.saturating_sub(shown);
        let first = self.selected.saturating_sub(shown.saturating_sub(1));
        self.offset = self.offset.clamp(first, self.selected).min(most);
        let rows = sessions.iter().skip(self.offset).take(shown);
        let rows = rows.map(|session| {
            let mut cells = row(session);
            cells[0].truncate(DIGITS);
            Row::new(cells)
        });
        let widths = [
            Constraint::Length(DIGITS as u16),
            Constraint::Fill(2),
            Constraint::Fill(1),
            Constraint::Length(8),
            Constraint::Length(6),
            Constraint::Length(8),
            Constraint::Fill(2),
            Constraint::Length(6),
        ];
        let table = Table::new(rows, widths)
            .header(Row::new(titles).style(bold))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let mut state = TableState::new()
            .with_selected((self.rows > 0).then(|| self.selected.saturating_sub(self.offset)));
        StatefulWidget::render(table, area, buffer, &mut state);
    }
}

fn heading(course: &Course) -> Paragraph<'static> {
    let server = &course.last.server;
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let state = match (&course.lost, server.stopping, server.accepting) {
        (Some(why), _, _) => {
            let why = Escaped(why.as_bytes()).to_string();
            Span::styled(format!("lost: {why}"), Style::new().fg(Color::Red))
        }
        (None, true, _) => Span::styled("stopping", Style::new().fg(Color::Yellow)),
        (None, false, true) => Span::styled("accepting", Style::new().fg(Color::Green)),
        (None, false, false) => Span::styled("full", Style::new().fg(Color::Yellow)),
    };
    let address = server.address.map(|address| address.to_string());
    let up = age(Duration::from_millis(server.milliseconds));
    let program = Escaped(server.program.as_bytes());
    let first = Line::from(vec![
        Span::styled(format!("baton {program}"), bold),
        Span::raw(format!("  {}  up {up}  ", address.unwrap_or_default())),
        state,
    ]);
    Paragraph::new(vec![
        first,
        Line::from(sessions(server)),
        Line::from(contexts(server)),
        Line::from(processes(server)),
    ])
}

fn sessions(server: &Server) -> String {
    let (handshakes, ended) = (&server.tally.handshakes, &server.tally.sessions.ended);
    format!(
        "sessions {} of {}, {} waiting, {} ended   handshakes {} in progress, {} refused",
        server.sessions,
        server.sessions_limit,
        server.sessions_waiting,
        ended.sum(),
        handshakes.in_progress,
        handshakes.refused.sum()
    )
}

fn contexts(server: &Server) -> String {
    let contexts = server.contexts.each();
    let states = contexts.map(|(state, count)| format!("{state} {count}"));
    let releases = server.tally.sessions.releases.sum();
    format!("contexts {}   releases {releases}", states.join("  "))
}

fn processes(server: &Server) -> String {
    let shown = server.processes.iter().map(|process| {
        let role = Escaped(process.role.as_bytes());
        format!("{role} {} {}", process.process, bytes(process.resident))
    });
    let restarts = server.tally.restarts.sum();
    let shown: Vec<String> = shown.collect();
    format!("{}   restarts {restarts}", shown.join("  "))
}

/// Four plots side by side, each with its last value above it.
fn draw_plots(course: &Course, area: Rect, buffer: &mut Buffer) {
    let rates = &course.rates;
    type Plot<'a> = (&'a str, &'a VecDeque<u64>, fn(u64) -> String);
    let plots: [Plot<'_>; 4] = [
        ("handshakes", &rates.handshakes, per_second),
        ("hops", &rates.hops, per_second),
        ("refused", &rates.refused, per_second),
        ("handshake", &rates.latency, milliseconds),
    ];
    let areas: [Rect; 4] = Layout::horizontal([Constraint::Fill(1); 4])
        .spacing(2)
        .areas(area);
    for ((name, values, show), area) in plots.into_iter().zip(areas) {
        let parts = [Constraint::Length(1), Constraint::Min(0)];
        let [title, plot] = Layout::vertical(parts).areas(area);
        let last = values
            .back()
            .map_or_else(|| "-".to_owned(), |last| show(*last));
        Paragraph::new(format!("{name} {last}")).render(title, buffer);
        // The newest at the right edge.
        let width = usize::from(plot.width);
        let shown = values.iter().rev().take(width).rev().copied();
        Sparkline::default()
            .data(shown.collect::<Vec<u64>>())
            .style(Style::new().fg(Color::Cyan))
            .render(plot, buffer);
    }
}

fn per_second(thousandths: u64) -> String {
    match thousandths {
        0..10_000 => format!("{}.{}/s", thousandths / 1000, thousandths % 1000 / 100),
        _ => format!("{}/s", thousandths / 1000),
    }
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{} ms", microseconds / 1000, microseconds % 1000 / 100)
}
