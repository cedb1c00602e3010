//! A manifest's text as a tree of plain values. Whatever makes YAML dangerous is refused: aliases, anchors, tags, merge
//! keys, several documents, keys that are no plain words, and more than a manifest can need.

use granit_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use crate::engine::manifest::{Node, Problem, Value};
use crate::model::limits;

/// Reads a text.
///
/// # Errors
/// The first mistake with its line.
pub(super) fn read(text: &str) -> Result<Node, Problem> {
    if text.len() > limits::MANIFEST_LEN {
        return Err(Problem { line: 1, reason: format!("longer than {} bytes", limits::MANIFEST_LEN) });
    }
    let mut reader = Reader { events: Parser::new_from_str(text), values: 0 };
    let mut root = None;
    loop {
        let (event, line) = reader.next()?;
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(..) if root.is_some() => return Err(wrong(line, "a second document begins here")),
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
            event => root = Some(reader.node(event, line, 0)?),
        }
    }
    root.ok_or_else(|| wrong(1, "it is empty"))
}

fn wrong(line: usize, reason: &str) -> Problem {
    Problem { line, reason: reason.to_owned() }
}

struct Reader<'a> {
    events: Parser<'a, StrInput<'a>>,
    values: usize,
}

fn line(span: &Span) -> usize {
    span.start.line()
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, usize), Problem> {
        loop {
            match self.events.next_event() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => return Ok((event, line(&span))),
                Some(Err(error)) => {
                    return Err(Problem { line: error.marker().line(), reason: format!("not YAML: {}", error.info()) });
                }
                None => return Ok((Event::StreamEnd, 1)),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, line: usize, depth: usize) -> Result<Node, Problem> {
        self.values += 1;
        if depth > limits::MANIFEST_DEPTH {
            return Err(wrong(line, "nested too deeply"));
        }
        if self.values > limits::MANIFEST_VALUES {
            return Err(wrong(line, "more values than a manifest can have"));
        }
        let value = match event {
            Event::Alias(..) => return Err(wrong(line, "aliases are not allowed")),
            Event::Scalar(text, style, anchor, tag) => {
                marks(line, anchor, tag.is_some())?;
                match style {
                    ScalarStyle::Plain if matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL") => Value::Null,
                    ScalarStyle::Plain => Value::Text(text.into_owned(), false),
                    _ => Value::Text(text.into_owned(), true),
                }
            }
            Event::SequenceStart(_, anchor, tag) => {
                marks(line, anchor, tag.is_some())?;
                let mut items = Vec::new();
                loop {
                    let (event, line) = self.next()?;
                    if matches!(event, Event::SequenceEnd) {
                        break Value::List(items);
                    }
                    items.push(self.node(event, line, depth + 1)?);
                }
            }
            Event::MappingStart(_, anchor, tag) => {
                marks(line, anchor, tag.is_some())?;
                let mut entries: Vec<(String, usize, Node)> = Vec::new();
                loop {
                    let (event, at) = self.next()?;
                    let key = match event {
                        Event::MappingEnd => break Value::Map(entries),
                        Event::Scalar(key, _, anchor, tag) => {
                            marks(at, anchor, tag.is_some())?;
                            key.into_owned()
                        }
                        Event::Alias(..) => return Err(wrong(at, "aliases are not allowed")),
                        _ => return Err(wrong(at, "a key must be a plain word")),
                    };
                    if entries.iter().any(|(known, ..)| *known == key) {
                        return Err(wrong(at, "a key is given twice"));
                    }
                    if entries.len() >= KEYS {
                        return Err(wrong(at, "more keys than any section has"));
                    }
                    let (event, line) = self.next()?;
                    entries.push((key, at, self.node(event, line, depth + 1)?));
                }
            }
            _ => return Err(wrong(line, "not of a kind that a manifest has")),
        };
        Ok(Node { line, value })
    }
}

/// Keys of one section: more than any has, and few enough to be compared with one another.
const KEYS: usize = 64;

/// Neither an anchor, which is there for aliases, nor a tag, which names a type.
fn marks(line: usize, anchor: usize, is_tagged: bool) -> Result<(), Problem> {
    if anchor != 0 {
        return Err(wrong(line, "anchors are not allowed"));
    }
    if is_tagged {
        return Err(wrong(line, "tags are not allowed"));
    }
    Ok(())
}
