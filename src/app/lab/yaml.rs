//! Scenario files as trees with places, so that every mistake can be named with its line.

use granit_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use crate::model::config::{Place, Problem};

/// A longer file is refused, bytes.
const FILE_LEN: usize = 256 * 1024;
/// Deeper nesting is refused.
const DEPTH: usize = 8;
/// More values are refused.
const VALUES: usize = 10_000;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Empty where nothing stands.
    Text(String),
    List(Vec<Node>),
    /// Keys with their places.
    Map(Vec<(String, Place, Node)>),
}

/// The whole text; an empty one is an empty map.
///
/// # Errors
/// It is not YAML, or not of a kind that is wanted here.
pub(super) fn read(text: &str, source: &str) -> Result<Node, Problem> {
    let mut reader = Reader { source, events: Parser::new_from_str(text), values: 0 };
    if text.len() > FILE_LEN {
        return Err(reader.problem(&Span::default(), "", &format!("longer than {FILE_LEN} bytes")));
    }
    let mut root = None;
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(..) if root.is_some() => {
                return Err(reader.problem(&span, "", "a second document begins here; one is allowed"));
            }
            Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) => {
                root = Some(reader.node(event, &span, "", 0)?);
            }
            _ => {}
        }
    }
    match root {
        Some(Node { value: Value::Text(text), place }) if text.is_empty() => {
            Ok(Node { place, value: Value::Map(Vec::new()) })
        }
        Some(node) => Ok(node),
        None => Ok(Node { place: reader.place(&Span::default()), value: Value::Map(Vec::new()) }),
    }
}

struct Reader<'a> {
    source: &'a str,
    events: Parser<'a, StrInput<'a>>,
    values: usize,
}

impl<'a> Reader<'a> {
    fn place(&self, span: &Span) -> Place {
        Place { source: self.source.to_owned(), line: span.start.line(), column: span.start.col() + 1 }
    }

    fn problem(&self, span: &Span, key: &str, message: &str) -> Problem {
        Problem { place: self.place(span), key: key.to_owned(), message: message.to_owned() }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        loop {
            match self.events.next_event() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(event)) => return Ok(event),
                Some(Err(error)) => {
                    let at = error.marker();
                    let place = Place { source: self.source.to_owned(), line: at.line(), column: at.col() + 1 };
                    return Err(Problem { place, key: String::new(), message: format!("not YAML: {}", error.info()) });
                }
                None => return Ok((Event::StreamEnd, Span::default())),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span, path: &str, depth: usize) -> Result<Node, Problem> {
        self.values += 1;
        if depth > DEPTH || self.values > VALUES {
            return Err(self.problem(span, path, "too much for a scenario"));
        }
        let place = self.place(span);
        let value = match event {
            Event::Scalar(text, style, ..) => {
                let null = style == ScalarStyle::Plain && matches!(text.as_ref(), "~" | "null");
                Value::Text(if null { String::new() } else { text.into_owned() })
            }
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::SequenceEnd) {
                        break Value::List(items);
                    }
                    let path = format!("{path}[{}]", items.len());
                    items.push(self.node(event, &span, &path, depth + 1)?);
                }
            }
            Event::MappingStart(..) => {
                let mut entries: Vec<(String, Place, Node)> = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    let key = match event {
                        Event::MappingEnd => break Value::Map(entries),
                        Event::Scalar(key, ..) => key.into_owned(),
                        _ => return Err(self.problem(&span, path, "a key must be a plain word")),
                    };
                    let whole = join(path, &key);
                    if entries.iter().any(|(known, ..)| *known == key) {
                        return Err(self.problem(&span, &whole, "given twice"));
                    }
                    let place = self.place(&span);
                    let (event, span) = self.next()?;
                    let node = self.node(event, &span, &whole, depth + 1)?;
                    entries.push((key, place, node));
                }
            }
            _ => return Err(self.problem(span, path, "only plain values, lists and keys are allowed here")),
        };
        Ok(Node { place, value })
    }
}

/// A key below another.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
