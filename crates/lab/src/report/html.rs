//! Owns small pieces of HTML: escaping, numbers for people, tables.

use api::summary::Summary;

/// Text that is safe between tags and in attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(character),
        }
    }
    out
}

/// A count with thin spaces between thousands.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// Milliseconds with as many digits as they deserve.
pub fn ms(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// A number without digits that say nothing.
pub fn plain(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A table; the first column is text, the others are numbers.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |tag: &str, cells: &[String]| -> String {
        cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect()
    };
    let heading: Vec<String> = heading.iter().map(|&cell| cell.to_owned()).collect();
    let body: String = rows.iter().map(|row| format!("<tr>{}</tr>\n", cells("td", row))).collect();
    format!(
        "<div class=\"scroll\"><table><thead><tr>{}</tr></thead><tbody>\n{body}</tbody></table></div>\n",
        cells("th", &heading)
    )
}

/// The row of a summary in milliseconds.
pub fn summary_row(name: &str, summary: &Summary) -> Vec<String> {
    let mut row = vec![name.to_owned()];
    row.extend([summary.min, summary.median, summary.p99, summary.max].map(ms));
    row.push(count(summary.count));
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<a href='x'>&\""), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
        assert!(table(&["a"], &[vec!["<b>".into()]]).contains("<td>&lt;b&gt;</td>"));
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!((plain(100.0), plain(2.5), plain(0.0)), ("100".into(), "2.5".into(), "0".into()));
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!((count(0), count(999)), ("0".into(), "999".into()));
        assert_eq!(
            (ms(123.4), ms(12.34), ms(1.234), ms(-0.5)),
            ("123".into(), "12.3".into(), "1.23".into(), "-0.50".into())
        );
    }
}
