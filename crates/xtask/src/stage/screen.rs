//! Owns what a person sees of a run: chapters, sentences, one line that lives, and marks of what is done.
//!
//! On a terminal the living line is redrawn in place; elsewhere (a log file, CI) it is printed now and then.

use api::summary::Summary;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How wide sentences run.
const WIDTH: usize = 96;
/// How often the living line is printed where it cannot be redrawn.
const PLAIN_EVERY: Duration = Duration::from_secs(3);
/// How often it is redrawn where it can.
const REDRAW_EVERY: Duration = Duration::from_millis(80);
const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// Where a run is shown.
pub struct Screen {
    out: Box<dyn Write + Send>,
    /// A terminal: lines can be redrawn and coloured.
    redraws: bool,
    coloured: bool,
    living: bool,
    drawn: Option<Instant>,
    turn: usize,
    chapter: u32,
}

impl Screen {
    /// Shows on the standard output, or, if that is kept for JSON, on the standard error.
    pub fn new(json: bool) -> Self {
        let (out, terminal): (Box<dyn Write + Send>, bool) = if json {
            (Box::new(std::io::stderr()), std::io::stderr().is_terminal())
        } else {
            (Box::new(std::io::stdout()), std::io::stdout().is_terminal())
        };
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let coloured = terminal && !dumb && std::env::var_os("NO_COLOR").is_none();
        Self { redraws: terminal && !dumb, coloured, ..Self::on(out) }
    }

    /// Shows plain lines.
    fn on(out: Box<dyn Write + Send>) -> Self {
        Self { out, redraws: false, coloured: false, living: false, drawn: None, turn: 0, chapter: 0 }
    }

    /// Begins a chapter.
    pub fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        let title = self.paint("1;36", &format!("{}  {title}", self.chapter));
        self.line(&format!("\n{title}"));
    }

    /// Explains something, in sentences.
    pub fn say(&mut self, text: &str) {
        for line in wrap(text, WIDTH) {
            self.line(&format!("   {line}"));
        }
    }

    /// A line of air.
    pub fn gap(&mut self) {
        self.line("");
    }

    /// Something is done.
    pub fn done(&mut self, text: &str) {
        let mark = self.paint("32", "✓");
        self.line(&format!("   {mark} {text}"));
    }

    /// Something is wrong.
    pub fn bad(&mut self, text: &str) {
        let mark = self.paint("1;31", "✗");
        self.line(&format!("   {mark} {text}"));
    }

    /// A moment in a failover: how long after the kill, and what happened.
    pub fn moment(&mut self, after_us: i64, text: &str) {
        let at = format!("{:+8.3} s", after_us as f64 / 1e6);
        let at = self.paint("33", &at);
        self.line(&format!("   {at}  {text}"));
    }

    /// Text set off from the rest by its weight.
    pub fn strong(&mut self, text: &str, good: bool) {
        let text = self.paint(if good { "1;32" } else { "1;31" }, text);
        self.line(&format!("   {text}"));
    }

    /// Lines as they are.
    pub fn block(&mut self, text: &str) {
        for line in text.lines() {
            self.line(&format!("   {line}"));
        }
    }

    /// The line that says what goes on now.
    pub fn live(&mut self, text: &str) {
        let every = if self.redraws { REDRAW_EVERY } else { PLAIN_EVERY };
        if self.drawn.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        self.drawn = Some(Instant::now());
        self.turn += 1;
        if self.redraws {
            let sign = self.paint("36", &SPINNER[self.turn % SPINNER.len()].to_string());
            // No wrapping while it is drawn: the terminal cuts what is too long, and one line stays one line.
            self.write(&format!("\r\x1b[2K\x1b[?7l   {sign} {text}\x1b[?7h"));
            self.living = true;
        } else {
            self.write(&format!("   · {text}\n"));
        }
    }

    fn line(&mut self, text: &str) {
        let clear = if std::mem::take(&mut self.living) { "\r\x1b[2K" } else { "" };
        self.write(&format!("{clear}{text}\n"));
        // What goes on after this line is shown at once on a terminal, and in due time elsewhere.
        self.drawn = (!self.redraws).then(Instant::now);
    }

    fn write(&mut self, text: &str) {
        // Nobody listening is no reason to end the run: its verdict is in files and in the exit status.
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Breaks a text into lines at spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Durations in one line.
pub fn spread(found: Option<Summary>) -> String {
    found.map_or("none".into(), |found| {
        format!(
            "min {:.1}, median {:.1}, p99 {:.1}, max {:.1} ms",
            found.min, found.median, found.p99, found.max
        )
    })
}

/// A count with a thin gap between thousands.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("one writer").write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_file_gets_whole_lines_without_control_characters() {
        let paper = Paper::default();
        let mut screen = Screen::on(Box::new(paper.clone()));
        screen.chapter("Begin");
        screen.live("too soon after a line to be printed");
        screen.done("built");
        screen.moment(-1_500, "before");
        let text = String::from_utf8(paper.0.lock().expect("one writer").clone()).expect("text");
        assert_eq!(text, "\n1  Begin\n   ✓ built\n     -0.002 s  before\n");
    }

    #[test]
    fn a_living_line_gives_way_to_the_next_line() {
        let paper = Paper::default();
        let mut screen = Screen { redraws: true, ..Screen::on(Box::new(paper.clone())) };
        screen.live("working");
        screen.done("done");
        let text = String::from_utf8(paper.0.lock().expect("one writer").clone()).expect("text");
        assert!(text.ends_with("\r\x1b[2K   ✓ done\n") && text.contains("working"), "{text:?}");
    }

    #[test]
    fn sentences_break_at_spaces_and_thousands_are_parted() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!((count(7), count(1_234_567)), ("7".into(), "1 234 567".into()));
    }
}
