//! The statements of a PTX text.

/// A statement, without comments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement<'t> {
    /// Line of its first character, from 1.
    pub line: usize,
    pub kind: Kind<'t>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind<'t> {
    /// `name:`
    Label(&'t str),
    /// `{`, `}` that are no operands.
    Open,
    Close,
    /// What stands before `;`, before a `{` that opens a body, or to the end of the line for those directives that end so.
    Text(&'t str),
}

/// Directives that end with their line.
const LINE_DIRECTIVES: [&str; 7] = [
    ".version",
    ".target",
    ".address_size",
    ".loc",
    ".file",
    ".maxntid",
    ".minnctapersm",
];

/// Leaves out comments, but for their line breaks; quoted text stays.
pub(super) fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['/', '"']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let comment = from.starts_with("//") || from.starts_with("/*");
        let end = if from.starts_with("//") {
            from.find('\n').unwrap_or(from.len())
        } else if from.starts_with("/*") {
            from.find("*/").map_or(from.len(), |e| e + 2)
        } else if let Some(quoted) = from.strip_prefix('"') {
            quoted.find('"').map_or(from.len(), |e| e + 2)
        } else {
            1
        };
        if comment {
            out.extend(from[..end].chars().filter(|c| *c == '\n'));
        } else {
            out.push_str(&from[..end]);
        }
        rest = &from[end..];
    }
    out.push_str(rest);
    out
}

/// Splits a text without comments into statements.
pub(super) fn statements(text: &str) -> Vec<Statement<'_>> {
    let mut out = vec![];
    let mut line = 1;
    let mut rest = text;
    loop {
        let blank = rest.len() - rest.trim_start().len();
        line += rest[..blank].matches('\n').count();
        rest = &rest[blank..];
        if rest.is_empty() {
            return out;
        }
        let (kind, used) = first(rest);
        out.push(Statement { line, kind });
        line += rest[..used].matches('\n').count();
        rest = &rest[used..];
    }
}

/// The first statement of a text that begins with one, and how many bytes it takes.
fn first(text: &str) -> (Kind<'_>, usize) {
    if text.starts_with('{') {
        return (Kind::Open, 1);
    }
    if text.starts_with('}') {
        return (Kind::Close, 1);
    }
    let word_end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || "_$.%".contains(c)))
        .unwrap_or(text.len());
    let word = &text[..word_end];
    if !word.is_empty() && text[word_end..].starts_with(':') && !word.starts_with('.') {
        return (Kind::Label(word), word_end + 1);
    }
    if LINE_DIRECTIVES.contains(&word) {
        let end = text.find('\n').unwrap_or(text.len());
        return (Kind::Text(text[..end].trim()), end);
    }
    // A header ends where its body opens; an instruction's braces hold operands.
    if matches!(word, ".visible" | ".entry" | ".func" | ".extern" | ".weak") || word == ".section" {
        let end = text.find(['{', ';']).unwrap_or(text.len());
        let used = if text[end..].starts_with(';') {
            end + 1
        } else {
            end
        };
        return (Kind::Text(text[..end].trim()), used);
    }
    let end = text.find(';').unwrap_or(text.len());
    (Kind::Text(text[..end].trim()), (end + 1).min(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_keep_their_lines_and_lose_their_comments() {
        let text =
            without_comments("// one\n.version 9.0\nL1: /* two\n lines */ mov.b32 {%a, %b}, %r; { ret; }");
        let all = statements(&text);
        let kinds: Vec<_> = all.iter().map(|s| (s.line, s.kind.clone())).collect();
        assert_eq!(
            kinds,
            [
                (2, Kind::Text(".version 9.0")),
                (3, Kind::Label("L1")),
                (4, Kind::Text("mov.b32 {%a, %b}, %r")),
                (4, Kind::Open),
                (4, Kind::Text("ret")),
                (4, Kind::Close),
            ]
        );
    }
}
