//! Owns reading Rust source just well enough: what is code and what is comment or text, its words, its functions.

/// A word of code: an identifier, a keyword or a number.
#[derive(Debug, PartialEq, Eq)]
pub struct Word<'a> {
    /// The word.
    pub text: &'a str,
    /// Its line, from 1.
    pub line: usize,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The line of its `fn`, from 1.
    pub line: usize,
    /// From there to its closing brace.
    pub lines: usize,
}

/// The source with a space for every character of comments and literals; line ends stay.
pub fn code_only(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skip(&chars, at);
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none begins there.
fn skip(chars: &[char], at: usize) -> usize {
    let next = |ahead: usize| chars.get(at + ahead).copied().unwrap_or('\0');
    match (chars[at], next(1)) {
        ('/', '/') => find(chars, at, |&c| c == '\n').unwrap_or(chars.len()),
        ('/', '*') => block_comment(chars, at),
        ('"', _) => quoted(chars, at, '"'),
        ('r', '"' | '#') if !follows_word(chars, at) => raw(chars, at),
        ('\'', '\\') => quoted(chars, at, '\''),
        // A quote two further on: a character. Otherwise it is a lifetime, and code.
        ('\'', _) if next(2) == '\'' => at + 3,
        _ => at,
    }
}

/// Whether the character before belongs to a word other than the prefix of a byte or C literal.
fn follows_word(chars: &[char], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).is_some_and(|at| is_word(chars[at]));
    let prefix = at.checked_sub(1).is_some_and(|at| matches!(chars[at], 'b' | 'c'));
    before(1) && (!prefix || before(2))
}

fn find(chars: &[char], from: usize, wanted: impl Fn(&char) -> bool) -> Option<usize> {
    chars[from..].iter().position(wanted).map(|ahead| from + ahead)
}

fn block_comment(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_u32);
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (at, depth) = (at + 2, depth + 1),
            ('*', '/') => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn quoted(chars: &[char], start: usize, quote: char) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

fn raw(chars: &[char], start: usize) -> usize {
    let hashes = chars[start + 1..].iter().take_while(|&&c| c == '#').count();
    let open = start + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return start;
    }
    let ends =
        |at: usize| chars[at] == '"' && chars[at + 1..].iter().take_while(|&&c| c == '#').count() >= hashes;
    (open + 1..chars.len()).find(|&at| ends(at)).map_or(chars.len(), |at| at + 1 + hashes)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The words of some code, as [`code_only`] gives it.
pub fn words(code: &str) -> impl Iterator<Item = Word<'_>> {
    code.lines().enumerate().flat_map(move |(at, line)| {
        line.split(|c| !is_word(c))
            .filter(|word| !word.is_empty())
            .map(move |text| Word { text, line: at + 1 })
    })
}

/// The functions in a source that have a body.
pub fn functions(source: &str) -> Vec<Function> {
    let code = code_only(source);
    let chars: Vec<char> = code.chars().collect();
    let mut found = Vec::new();
    for at in 0..chars.len() {
        let is_fn = chars[at..].starts_with(&['f', 'n', ' ']) && (at == 0 || !is_word(chars[at - 1]));
        if !is_fn {
            continue;
        }
        let name: String = chars[at + 3..].iter().take_while(|&&c| is_word(c)).collect();
        // A name is missing in the type `fn (..)` and in macros that make one.
        if let (false, Some(end)) = (name.is_empty(), body_end(&chars, at)) {
            let line = 1 + chars[..at].iter().filter(|&&c| c == '\n').count();
            let lines = 1 + chars[at..end].iter().filter(|&&c| c == '\n').count();
            found.push(Function { name, line, lines });
        }
    }
    found
}

/// The place after a function's closing brace; None if it has no body.
fn body_end(chars: &[char], start: usize) -> Option<usize> {
    let (mut round, mut braces) = (0_i32, 0_i32);
    for (at, c) in chars.iter().enumerate().skip(start) {
        match c {
            '(' | '[' => round += 1,
            ')' | ']' => round -= 1,
            ';' if round == 0 && braces == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code_and_lines_stay() {
        for (source, code) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c\n */ d */ e", "a          \n         e"),
            (r#"x("a\"b") y"#, r#"x(      ) y"#),
            ("x(r#\"a\"b\"#) y", "x(        ) y"),
            ("br\"a\\\" y", "b      y"),
            ("'a' 'b: '\\'' c", "    'b:      c"),
            ("'\"' x '{'", "    x    "),
            ("r#type for\"", "r#type for "),
        ] {
            assert_eq!(code_only(source), code, "{source}");
        }
    }

    #[test]
    fn words_of_comments_and_texts_do_not_count() {
        let code = code_only("let a = \"unsafe\"; // unsafe\nunsafe_code();\nunsafe { b }");
        let lines: Vec<usize> =
            words(&code).filter(|word| word.text == "unsafe").map(|word| word.line).collect();
        assert_eq!(lines, [3]);
    }

    #[test]
    fn functions_are_measured_to_their_own_brace() {
        let source = "fn one() {}\n\
                      trait T { fn none(&self) -> [u8; 4]; }\n\
                      fn two(f: fn(u8)) -> [u8; 2] {\n  let s = \"}\"; // }\n  if x { '{' }\n}\n\
                      struct S { f: fn (u8) }\n";
        let found = functions(source);
        let short: Vec<(&str, usize, usize)> =
            found.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
        assert_eq!(short, [("one", 1, 1), ("two", 3, 4)]);
    }
}
