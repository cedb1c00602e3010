//! Messages in the log: by name, without their content.

use std::fmt::{self, Debug, Write};

/// Shows the first word of a value's `Debug` form, which for a message is its name.
pub(super) struct Named<'a, T>(pub(super) &'a T);

impl<T: Debug> fmt::Display for Named<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut word = FirstWord { out: f, ended: false };
        // An error stops the formatting of the rest; it is ours when the word has ended.
        let stopped = write!(word, "{:?}", self.0).is_err();
        if stopped && !word.ended { Err(fmt::Error) } else { Ok(()) }
    }
}

struct FirstWord<'a, 'f> {
    out: &'a mut fmt::Formatter<'f>,
    ended: bool,
}

impl Write for FirstWord<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
        self.out.write_str(&text[..end])?;
        self.ended = end < text.len();
        if self.ended { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::soulseek::server::ToServer;
    use crate::model::music::WireText;

    #[test]
    fn only_the_name_is_shown() {
        assert_eq!(Named(&ToServer::ServerPing).to_string(), "ServerPing");
        let message = ToServer::MessageUser { user: WireText::from("u"), text: WireText::from("secret") };
        assert_eq!(Named(&message).to_string(), "MessageUser");
    }
}
