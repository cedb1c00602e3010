//! `slskdn.yml`, the environment and flags become layers of keys; single values are changed in the file without
//! touching the owner's comments.

use std::collections::BTreeSet;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use crate::model::config::{Given, Place, Problem, Raw, keys};

/// A longer file is refused.
const FILE_LEN: usize = 1024 * 1024;
/// Deeper nesting is refused (RELIABILITY-FACTS 4, row 14).
const DEPTH: usize = 32;

/// One value in the file with the bytes it takes.
struct Found {
    given: Given,
    bytes: std::ops::Range<usize>,
    /// Nothing stands there, or YAML's word for it.
    null: bool,
}

/// One mapping in the file: where keys of its own may be added.
struct Section {
    path: String,
    /// Byte offset of its first key, and that key's column from 0.
    first: usize,
    indent: usize,
    flow: bool,
}

struct Walk<'a> {
    source: &'a str,
    text: &'a str,
    events: Parser<'a, granit_parser::StrInput<'a>>,
    found: Vec<Found>,
    sections: Vec<Section>,
    seen: BTreeSet<String>,
    problems: Vec<Problem>,
}

/// Every key of a YAML text with its place. One of ours with nothing behind it, or `~`, counts as not given.
///
/// # Errors
/// Text that is not YAML, is too long or too deep, uses aliases, or gives a key twice.
pub fn read(text: &str, source: &str) -> Result<Vec<Given>, Vec<Problem>> {
    let given = walk(text, source)?.found.into_iter();
    Ok(given.filter(|found| !found.null || keys::find(&found.given.key).is_none()).map(|found| found.given).collect())
}

fn walk<'a>(text: &'a str, source: &'a str) -> Result<Walk<'a>, Vec<Problem>> {
    let whole = |message: String| Problem { place: place(source, 0, 0), key: String::new(), message };
    if text.len() > FILE_LEN {
        return Err(vec![whole(format!("longer than {FILE_LEN} bytes"))]);
    }
    let mut walk = Walk {
        source,
        text,
        events: Parser::new_from_str(text),
        found: Vec::new(),
        sections: Vec::new(),
        seen: BTreeSet::new(),
        problems: Vec::new(),
    };
    match walk.document() {
        Ok(()) if walk.problems.is_empty() => Ok(walk),
        Ok(()) => Err(walk.problems),
        Err(problem) => {
            walk.problems.push(problem);
            Err(walk.problems)
        }
    }
}

fn place(source: &str, line: usize, column: usize) -> Place {
    Place { source: source.to_owned(), line, column }
}

impl<'a> Walk<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        loop {
            match self.events.next_event() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((Event::Alias(_), span))) => {
                    return Err(self.problem(span, "", "aliases are not allowed here"));
                }
                Some(Ok(event)) => return Ok(event),
                Some(Err(error)) => {
                    let at = error.marker();
                    let place = place(self.source, at.line(), at.col() + 1);
                    let info = error.info();
                    return Err(Problem { place, key: String::new(), message: format!("not YAML: {info}") });
                }
                None => return Ok((Event::StreamEnd, Span::default())),
            }
        }
    }

    fn problem(&self, span: Span, key: &str, message: &str) -> Problem {
        let place = place(self.source, span.start.line(), span.start.col() + 1);
        Problem { place, key: key.to_owned(), message: message.to_owned() }
    }

    fn document(&mut self) -> Result<(), Problem> {
        let mut documents = 0;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(()),
                Event::DocumentStart(..) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(self.problem(span, "", "a second document begins here; one is allowed"));
                    }
                }
                Event::MappingStart(style, ..) => {
                    let flow = style == granit_parser::StructureStyle::Flow;
                    self.mapping("", flow, 0)?;
                }
                Event::Scalar(text, ..) if text.is_empty() || text == "~" || text == "null" => {}
                Event::Scalar(..) | Event::SequenceStart(..) => {
                    return Err(self.problem(span, "", "keys with values are wanted, as in `web:`"));
                }
                _ => {}
            }
        }
    }

    fn mapping(&mut self, path: &str, flow: bool, depth: usize) -> Result<(), Problem> {
        let mut first = true;
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(()),
                Event::Scalar(key, ..) => key,
                _ => return Err(self.problem(span, path, "a key must be a plain word")),
            };
            if depth >= DEPTH {
                return Err(self.problem(span, path, "nested too deeply"));
            }
            let offset = span.byte_range().map_or(0, |range| range.start);
            if first {
                let (path, indent) = (path.to_owned(), span.start.col());
                self.sections.push(Section { path, first: offset, indent, flow });
                first = false;
            }
            let full = if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
            if !self.seen.insert(full.clone()) {
                let twice = self.problem(span, &full, "given twice");
                self.problems.push(twice);
            }
            self.value(&full, span, depth)?;
        }
    }

    fn value(&mut self, key: &str, key_span: Span, depth: usize) -> Result<(), Problem> {
        let (event, span) = self.next()?;
        let mut begin = span.byte_range().unwrap_or_default();
        if begin.is_empty() && matches!(event, Event::Scalar(..)) {
            // A missing value has no bytes of its own; its place is right behind the key's colon.
            let after = key_span.byte_range().map_or(0, |range| range.end);
            let colon = self.text.get(after..).and_then(|rest| rest.find(':')).map_or(after, |at| after + at + 1);
            begin = colon..colon;
        }
        let at = place(self.source, key_span.start.line(), key_span.start.col() + 1);
        if let Event::Scalar(_, ScalarStyle::Literal | ScalarStyle::Folded, ..) = &event {
            // The parser names the lines of a block; its head (`|` or `>`) goes with them, its last line end stays.
            let after = key_span.byte_range().map_or(0, |range| range.end);
            let head = self.text.get(after..begin.start).and_then(|between| between.find(['|', '>']));
            let lines = self.text.get(..begin.end).map_or(begin.end, |text| text.trim_end().len());
            begin = head.map_or(begin.start, |at| after + at)..lines;
        }
        match event {
            Event::Scalar(text, style, ..) => {
                let null = style == ScalarStyle::Plain && matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL");
                let text = if null { String::new() } else { text.into_owned() };
                // YAML 1.1 spellings that tools write.
                let text = match (style, text.as_str()) {
                    (ScalarStyle::Plain, "True" | "TRUE") => "true".to_owned(),
                    (ScalarStyle::Plain, "False" | "FALSE") => "false".to_owned(),
                    _ => text,
                };
                self.found.push(Found {
                    given: Given { key: key.to_owned(), value: Raw::One(text), place: at },
                    bytes: begin,
                    null,
                });
            }
            Event::SequenceStart(..) => {
                let (items, end) = self.sequence(key, depth + 1)?;
                let bytes = begin.start..end.max(begin.end);
                let given = Given { key: key.to_owned(), value: Raw::Many(items), place: at };
                self.found.push(Found { given, bytes, null: false });
            }
            Event::MappingStart(style, ..) => {
                let flow = style == granit_parser::StructureStyle::Flow;
                self.mapping(key, flow, depth + 1)?;
            }
            _ => return Err(self.problem(span, key, "a value is missing")),
        }
        Ok(())
    }

    /// The texts of a list and the end of its last item (flow: of its bracket).
    fn sequence(&mut self, key: &str, depth: usize) -> Result<(Vec<String>, usize), Problem> {
        let mut items = Vec::new();
        let mut end = 0;
        let mut nested = 0_usize;
        loop {
            let (event, span) = self.next()?;
            let range = span.byte_range().unwrap_or_default();
            if depth + nested > DEPTH {
                return Err(self.problem(span, key, "nested too deeply"));
            }
            match event {
                Event::SequenceEnd if nested == 0 => {
                    // A flow list ends with its bracket; a block list's end is wherever the next thing begins.
                    let bracket = self.text.get(range.clone()).is_some_and(|text| text == "]");
                    return Ok((items, if bracket { range.end } else { end }));
                }
                Event::SequenceStart(..) | Event::MappingStart(..) => nested += 1,
                Event::SequenceEnd | Event::MappingEnd => nested -= 1,
                Event::Scalar(text, ..) => {
                    end = range.end;
                    if nested == 0 {
                        items.push(text.into_owned());
                    }
                }
                _ => return Err(self.problem(span, key, "a list item is missing")),
            }
        }
    }
}

/// The text with one key set, or removed for `None`; everything else, comments included, stays as it is.
///
/// # Errors
/// What [`read`] says about the text as it is.
pub fn edit(text: &str, key: &str, value: Option<&Raw>) -> Result<String, Vec<Problem>> {
    let walk = walk(text, "slskdn.yml")?;
    let written = value.map(write);
    let mut out = text.to_owned();
    // The key may stand there under its alias.
    let same = |name: &str| name == key || keys::find(name).is_some_and(|found| found.name == key);
    if let Some(found) = walk.found.iter().find(|found| same(&found.given.key)) {
        match written {
            // An empty scalar has no bytes of its own and stands right behind its colon.
            Some(written) if found.bytes.is_empty() => out.insert_str(found.bytes.start, &format!(" {written}")),
            Some(written) => out.replace_range(found.bytes.clone(), &written),
            None if found.null => {}
            None => out
                .replace_range(found.bytes.clone(), if matches!(found.given.value, Raw::Many(_)) { "[]" } else { "~" }),
        }
        return Ok(out);
    }
    let Some(written) = written else { return Ok(out) };
    // A section whose keys are all missing or commented out is an empty value.
    let empty = walk.found.iter().find_map(|found| {
        let below = key.strip_prefix(&found.given.key)?.strip_prefix('.')?;
        matches!(&found.given.value, Raw::One(text) if text.is_empty()).then_some((found, below))
    });
    if let Some((found, below)) = empty {
        let mut block = String::new();
        let parts: Vec<&str> = below.split('.').collect();
        for (level, part) in parts.iter().enumerate() {
            let pad = " ".repeat(found.given.place.column + 1 + 2 * level);
            block.extend(["\n", &pad, part, ":"]);
        }
        out.replace_range(found.bytes.clone(), &format!("{block} {written}"));
        return Ok(out);
    }
    // The deepest section that is there takes the rest of the path as new lines before its first key.
    let parts: Vec<&str> = key.split('.').collect();
    let host = (0..parts.len())
        .rev()
        .map(|depth| (depth, parts[..depth].join(".")))
        .find_map(|(depth, path)| walk.sections.iter().find(|s| s.path == path && !s.flow).map(|s| (depth, s)));
    let (depth, first, indent) = host.map_or((0, out.len(), 0), |(depth, s)| (depth, s.first, s.indent));
    let mut block = String::new();
    for (level, part) in parts[depth..].iter().enumerate() {
        let last = depth + level + 1 == parts.len();
        let pad = " ".repeat(indent + 2 * level);
        // The first line takes the place, and so the indent, of the key it is put before.
        let pad = if level == 0 && host.is_some() { "" } else { pad.as_str() };
        block.extend([pad, part, if last { ": " } else { ":" }, if last { &written } else { "" }, "\n"]);
    }
    if host.is_some() {
        block.push_str(&" ".repeat(indent));
    } else if !out.is_empty() && !out.ends_with('\n') {
        block.insert(0, '\n');
    }
    out.insert_str(first, &block);
    Ok(out)
}

fn write(value: &Raw) -> String {
    match value {
        Raw::One(text) => quote(text),
        Raw::Many(items) => format!("[{}]", items.iter().map(|item| quote(item)).collect::<Vec<_>>().join(", ")),
    }
}

/// A JSON string is a YAML double-quoted scalar; plain words and numbers stay as they are.
fn quote(text: &str) -> String {
    let plain = !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/'))
        && !matches!(text, "null" | "Null" | "NULL" | "true" | "false" | "yes" | "no");
    let flag = matches!(text, "true" | "false");
    if plain || flag { text.to_owned() } else { serde_json::Value::String(text.to_owned()).to_string() }
}

/// Layer of the environment: `SLSKDN_SOULSEEK__LISTEN_PORT` or, where no name has two meanings,
/// `SLSKDN_SOULSEEK_LISTEN_PORT`. Lists are separated by semicolons. Unknown names are added to the problems.
pub fn environment(variables: impl Iterator<Item = (String, String)>, problems: &mut Vec<Problem>) -> Vec<Given> {
    // Read by the program itself, not keys: see `app::cli` and `app::run`.
    const OWN: &[&str] = &["SLSKDN_DATA", "SLSKDN_CONFIG", "SLSKDN_LOG", "SLSKDN_CARD"];
    let mut given = Vec::new();
    for (name, value) in variables {
        if OWN.contains(&name.as_str()) {
            continue;
        }
        let Some(rest) = name.strip_prefix("SLSKDN_") else { continue };
        let spelled = |key: &str| key.replace('.', "_").to_ascii_uppercase();
        let wanted = rest.replace("__", "_").to_ascii_uppercase();
        let found = keys::KEYS
            .iter()
            .flat_map(|key| std::iter::once(&key.name).chain(key.aliases))
            .find(|key| !key.contains('*') && spelled(key) == wanted);
        let place = Place { source: format!("environment variable {name}"), line: 0, column: 0 };
        if let Some(key) = found {
            given.push(Given { key: (*key).to_owned(), value: Raw::One(value), place });
        } else {
            let guess = rest.to_ascii_lowercase().replace("__", ".");
            let near = keys::nearest(&guess).map(|near| format!("; did you mean SLSKDN_{}?", spelled(near)));
            let message = format!("unknown variable{}", near.unwrap_or_default());
            problems.push(Problem { place, key: String::new(), message });
        }
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# mine\nsoulseek:\n  username: me # who\n  password: \"0123\"\nweb:\n  port: 80\nshares:\n  directories:\n    - /a\n    - '[b] c'\n";

    fn value(text: &str, key: &str) -> Option<Raw> {
        read(text, "t").unwrap().into_iter().find(|given| given.key == key).map(|given| given.value)
    }

    fn one(text: &str) -> Raw {
        Raw::One(text.to_owned())
    }

    #[test]
    fn keys_have_places() {
        let given = read(FILE, "slskdn.yml").unwrap();
        let port = given.iter().find(|g| g.key == "web.port").unwrap();
        assert_eq!(port.place.to_string(), "slskdn.yml:6:3");
        assert_eq!(value(FILE, "shares.directories"), Some(Raw::Many(vec!["/a".into(), "[b] c".into()])));
        assert_eq!(value(FILE, "soulseek.password"), Some(one("0123")));
        assert_eq!(value("a: ~\n", "a"), Some(one("")), "a key that is not ours is still seen");
        assert_eq!(value("web:\n  port: ~\n", "web.port"), None, "not set");
        assert_eq!(value("directories:\n  downloads: \"\"\n", "directories.downloads"), Some(one("")));
        assert_eq!(read("", "t").unwrap(), []);
    }

    #[test]
    fn bad_files_say_where() {
        for (text, want) in [
            ("web:\n\tport: 1\n", "t:2:"),
            ("a: 1\na: 2\n", "t:2:1: a: given twice"),
            ("a: &x 1\nb: *x\n", "t:2:4: aliases are not allowed here"),
            ("- a\n", "t:1:"),
            ("a: [1, 2\n", "t:"),
        ] {
            let told = read(text, "t").unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>().join("|");
            assert!(told.starts_with(want), "{text:?}: {told}");
        }
        assert!(read(&"[".repeat(100_000), "t").is_err());
        assert!(read(&format!("a: {}", "{a: ".repeat(1_000)), "t").is_err());
    }

    #[test]
    fn edits_leave_the_rest_alone() {
        for (key, new) in [
            ("soulseek.username", one("you there")),
            ("soulseek.listen_port", one("1")),
            ("global.upload.slots", one("3")),
            ("web.authentication.username", one("x")),
            ("shares.directories", Raw::Many(vec!["/c".into(), "/d: e".into()])),
            ("shares.filters", Raw::Many(vec![])),
        ] {
            let text = edit(FILE, key, Some(&new)).unwrap();
            assert_eq!(value(&text, key).as_ref(), Some(&new), "{text}");
            assert!(text.contains("# mine") && text.contains("# who"), "{text}");
            let kept = |from: &str| {
                read(from, "")
                    .unwrap()
                    .into_iter()
                    .filter(|g| g.key != key)
                    .map(|g| (g.key, g.value))
                    .collect::<BTreeSet<_>>()
            };
            assert_eq!(kept(&text), kept(FILE), "{text}");
            assert_eq!(edit(&text, key, Some(&new)).unwrap(), text);
        }
        let unset = edit(FILE, "global.upload.slots", None).unwrap();
        assert_eq!(value(&unset, "global.upload.slots"), None, "{unset}");
        assert_eq!(edit("web:\n  port:\n", "web.port", None).unwrap(), "web:\n  port:\n");
        let set = edit(&unset, "global.upload.slots", Some(&one("5"))).unwrap();
        assert_eq!(value(&set, "global.upload.slots"), Some(one("5")), "{set}");
        assert_eq!(value("soulseek:\n  address:\n", "soulseek.address"), None);
        assert_eq!(value("soulseek:\n  address: \"\"\n", "soulseek.address"), Some(one("")));
        assert_eq!(value(&edit("", "web.port", Some(&one("1"))).unwrap(), "web.port"), Some(one("1")));
        assert_eq!(value(&edit("web:\n", "web.port", Some(&one("1"))).unwrap_or_default(), "web.port"), Some(one("1")));
    }

    #[test]
    fn edits_of_values_in_every_style() {
        for file in [
            "soulseek:\n  description: |\n    one\n    two\n  username: me\n",
            "soulseek:\n  description: >-\n    one\n    two\n\n  username: me\n",
            "soulseek:\n  description: one\n    two\n  username: me\n",
            "soulseek:\n  description: 'one\n    two' # said\n  username: me\n",
            "soulseek: {description: one, username: me}\n",
            "soulseek:\n  description: &a one\n  username: me\n",
            "soulseek:\n  description: !!str one\n  username: me\n",
            "soulseek:\n  description:   # nothing yet\n  username: me\n",
            "soulseek:\r\n  description: one\r\n  username: me\r\n",
        ] {
            let text = edit(file, "soulseek.description", Some(&one("new: # text"))).unwrap();
            assert_eq!(value(&text, "soulseek.description"), Some(one("new: # text")), "{text}");
            assert_eq!(value(&text, "soulseek.username"), Some(one("me")), "{text}");
            let text = edit(file, "soulseek.description", None).unwrap();
            assert_eq!(value(&text, "soulseek.description"), None, "{text}");
            assert_eq!(value(&text, "soulseek.username"), Some(one("me")), "{text}");
        }
    }

    #[test]
    fn environment_names_keys() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let variables = [
            pair("SLSKDN_SOULSEEK_LISTEN_PORT", "1"),
            pair("SLSKDN_WEB_PROT", "1"),
            pair("SLSKDN_WEB__PORT", "2"),
            pair("HOME", "/"),
        ];
        let mut told = Vec::new();
        let names: Vec<String> = environment(variables.into_iter(), &mut told).into_iter().map(|g| g.key).collect();
        assert_eq!(names, ["soulseek.listen_port", "web.port"]);
        let told: Vec<String> = told.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["environment variable SLSKDN_WEB_PROT: unknown variable; did you mean SLSKDN_WEB_PORT?"]);
    }
}
