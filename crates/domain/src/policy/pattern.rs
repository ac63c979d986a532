//! Conditions on one text or one address.
//!
//! Invariant: whether a pattern fits depends on its own text and the value alone; equal meanings have
//! equal identities: a single text is a list of one.

use core::net::IpAddr;

use regex::Regex;

use crate::hash::Canonical;

/// A condition on a text. All compare bytes, but `?`, which is one character.
#[derive(Debug, Clone)]
pub enum TextPattern {
    /// One of these texts, ascending, each once, at least one.
    OneOf(Vec<String>),
    /// A text that begins so.
    Prefix(String),
    /// A text that fits as a whole, where `*` is any characters and `?` one.
    Glob(String),
    /// A text in which it fits somewhere.
    Regex(Regex),
}

impl TextPattern {
    /// Takes a list of texts of which one must fit.
    #[must_use]
    pub fn one_of(mut texts: Vec<String>) -> Self {
        texts.sort();
        texts.dedup();
        Self::OneOf(texts)
    }

    /// Says whether a text fits.
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        match self {
            // Short lists are the common case; nothing is hashed for them.
            Self::OneOf(texts) if texts.len() <= 8 => texts.iter().any(|known| known == text),
            Self::OneOf(texts) => texts
                .binary_search_by(|known| known.as_str().cmp(text))
                .is_ok(),
            Self::Prefix(prefix) => text.starts_with(prefix),
            Self::Glob(glob) => glob_fits(glob, text),
            Self::Regex(regex) => regex.is_match(text),
        }
    }

    /// Adds the condition to a counter's identity.
    pub(super) fn identify(&self, to: &mut Canonical) {
        match self {
            Self::OneOf(texts) => {
                let count = u64::try_from(texts.len()).unwrap_or(u64::MAX);
                to.text("one_of").unsigned(count);
                texts.iter().fold(to, |to, text| to.text(text))
            }
            Self::Prefix(prefix) => to.text("prefix").text(prefix),
            Self::Glob(glob) => to.text("glob").text(glob),
            Self::Regex(regex) => to.text("regex").text(regex.as_str()),
        };
    }
}

/// Fits a glob: at a mismatch the last `*` takes one character more, so the time is at most the product
/// of both lengths and no stack is needed.
fn glob_fits(glob: &str, text: &str) -> bool {
    let mut glob = glob.chars();
    let mut text = text.chars();
    // What remained behind the last `*`, and of the text where that began.
    let mut star = None;
    loop {
        let mut next_glob = glob.clone();
        let mut next_text = text.clone();
        match (next_glob.next(), next_text.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                star = Some((next_glob.clone(), text.clone()));
                glob = next_glob;
                continue;
            }
            (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                (glob, text) = (next_glob, next_text);
                continue;
            }
            (Some(_) | None, _) => {}
        }
        let Some((behind, from)) = &mut star else {
            return false;
        };
        if from.next().is_none() {
            return false;
        }
        (glob, text) = (behind.clone(), from.clone());
    }
}

/// A network: addresses that share their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    address: u128,
    bits: u32,
    is_v4: bool,
}

impl Network {
    /// Reads `192.0.2.1`, `10.0.0.0/8` or `2001:db8::/32`; `None` where the text is no network. Bits
    /// behind the length are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().ok()?,
            Some(_) => return None,
            None => width,
        };
        if bits > width {
            return None;
        }
        let (address, is_v4) = number_of(address);
        let network = Self {
            address,
            bits,
            is_v4,
        };
        Some(Self {
            address: network.masked(address),
            ..network
        })
    }

    /// Says whether an address lies in it; an IPv4 address within IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (address, is_v4) = number_of(address.to_canonical());
        is_v4 == self.is_v4 && self.masked(address) == self.address
    }

    const fn masked(&self, address: u128) -> u128 {
        let width: u32 = if self.is_v4 { 32 } else { 128 };
        let free = width.saturating_sub(self.bits);
        match address.checked_shr(free) {
            Some(kept) => kept.wrapping_shl(free),
            None => 0,
        }
    }

    pub(super) fn identify(self, to: &mut Canonical) {
        let address = self.address.to_be_bytes();
        to.present(self.is_v4)
            .unsigned(self.bits.into())
            .bytes(&address);
    }
}

fn number_of(address: IpAddr) -> (u128, bool) {
    match address {
        IpAddr::V4(address) => (u32::from(address).into(), true),
        IpAddr::V6(address) => (address.into(), false),
    }
}
