//! Comments for readers of `nft list`.

use std::fmt;
use std::ops::Deref;

use crate::uapi::NFTNL_UDATA_COMMENT_MAXLEN;

/// A comment as it can be stored: at most 127 bytes, cut between characters; quotation marks, which nft could not load
/// again, are made single, and control characters blanks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Comment(Box<str>);

impl From<String> for Comment {
    fn from(mut text: String) -> Comment {
        if text.contains(|c: char| c == '"' || c.is_control()) {
            let plain = |c: char| match c {
                '"' => '\'',
                c if c.is_control() => ' ',
                c => c,
            };
            text = text.chars().map(plain).collect();
        }
        text.truncate(text.floor_char_boundary(NFTNL_UDATA_COMMENT_MAXLEN - 1));
        Comment(text.into())
    }
}

impl From<&str> for Comment {
    fn from(text: &str) -> Comment {
        Comment::from(text.to_owned())
    }
}

impl Deref for Comment {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Comment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_made_storable() {
        assert_eq!(&*Comment::from("say \"why\"\n\0"), "say 'why'  ");
        assert_eq!(Comment::from("ä".repeat(100)).len(), 126);
        let stored = Comment::from("x".repeat(300));
        assert_eq!(Comment::from(stored.to_string()), stored);
    }
}
