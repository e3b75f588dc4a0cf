//! What happens to a packet.

use std::fmt;
use std::sync::Arc;

use crate::attr::{Writer, read_str, read_u32, table};
use crate::error::Error;
use crate::uapi::*;

/// The end of a rule, or the value of a verdict map's element.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// The packet passes this base chain.
    Accept,
    /// The packet is dropped.
    Drop,
    /// On with the next rule.
    Continue,
    /// Back to the calling chain, or the policy.
    Return,
    /// To a chain, and back after it.
    Jump(Arc<str>),
    /// To a chain, and from its end back to where this one was called.
    Goto(Arc<str>),
}

impl Verdict {
    /// To the chain of this name, and back after it.
    pub fn jump(chain: impl Into<Arc<str>>) -> Verdict {
        Verdict::Jump(chain.into())
    }

    /// To the chain of this name, not to come back here.
    pub fn goto(chain: impl Into<Arc<str>>) -> Verdict {
        Verdict::Goto(chain.into())
    }

    /// Writes the verdict as an attribute that holds an `NFTA_DATA_VERDICT`.
    pub(crate) fn encode(&self, w: &mut Writer, ty: u16) {
        let (code, chain) = match self {
            Verdict::Accept => (NF_ACCEPT, None),
            Verdict::Drop => (NF_DROP, None),
            Verdict::Continue => (NFT_CONTINUE, None),
            Verdict::Return => (NFT_RETURN, None),
            Verdict::Jump(chain) => (NFT_JUMP, Some(chain)),
            Verdict::Goto(chain) => (NFT_GOTO, Some(chain)),
        };
        w.nest(ty, |w| {
            w.nest(NFTA_DATA_VERDICT, |w| {
                w.put_u32(NFTA_VERDICT_CODE, code as u32);
                if let Some(chain) = chain {
                    w.put_str(NFTA_VERDICT_CHAIN, chain);
                }
            });
        });
    }

    /// Reads the value of an `NFTA_DATA_VERDICT`.
    pub(crate) fn decode(value: &[u8]) -> Result<Verdict, Error> {
        let malformed = Error::Malformed { what: "verdict" };
        let [_, code, chain] = table::<3>(value)?;
        let chain = chain.map(read_str);
        match (code.and_then(read_u32).map(|code| code as i32), chain) {
            (Some(NF_ACCEPT), _) => Ok(Verdict::Accept),
            (Some(NF_DROP), _) => Ok(Verdict::Drop),
            (Some(NFT_CONTINUE), _) => Ok(Verdict::Continue),
            (Some(NFT_RETURN), _) => Ok(Verdict::Return),
            (Some(NFT_JUMP), Some(chain)) => Ok(Verdict::jump(chain)),
            (Some(NFT_GOTO), Some(chain)) => Ok(Verdict::goto(chain)),
            _ => Err(malformed),
        }
    }
}

/// As `nft` writes it.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Continue => f.write_str("continue"),
            Verdict::Return => f.write_str("return"),
            Verdict::Jump(chain) => write!(f, "jump {chain}"),
            Verdict::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_read_back() {
        use Verdict::*;
        for verdict in [Accept, Drop, Continue, Return, Verdict::jump("a"), Verdict::goto("pick-3")] {
            let mut w = Writer::default();
            verdict.encode(&mut w, 5);
            let [.., data] = table::<6>(&w.buf).unwrap();
            let [_, _, inner] = table::<3>(data.unwrap()).unwrap();
            assert_eq!(Verdict::decode(inner.unwrap()).unwrap(), verdict);
        }
    }
}
