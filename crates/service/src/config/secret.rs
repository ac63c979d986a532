//! Hiding secrets in what is shown.

/// What stands where a secret was.
pub(super) const HIDDEN: &str = "***";

/// Hides the passwords of URLs within a text: `postgres://ann:***@host/books`.
#[must_use]
pub fn mask(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        masked.push_str(before);
        masked.push_str("://");
        let (url, beyond) = after.split_at(url_end(after));
        masked.push_str(&mask_parameters(&mask_authority(url)));
        rest = beyond;
    }
    masked.push_str(rest);
    masked
}

/// Returns where a URL ends whose scheme was cut off: at white space, a quote, or the next URL. Marks
/// of punctuation end it only behind its last `@`, since a password may hold them.
fn url_end(after: &str) -> usize {
    let is_end = |c: char| c.is_whitespace() || "\"`".contains(c);
    let word = after.split(is_end).next().unwrap_or_default();
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let before_next = word.split("://").next().unwrap_or_default();
    let token = if before_next.len() < word.len() {
        before_next.trim_end_matches(is_scheme)
    } else {
        word
    };
    let host = token.rfind('@').unwrap_or(0);
    let behind = token.get(host..).unwrap_or_default();
    let mark = behind.find(|c: char| "'<>,;".contains(c));
    mark.map_or(token.len(), |mark| host.saturating_add(mark))
}

/// Hides what stands between the first colon and the last `@`; without one, nothing.
fn mask_authority(url: &str) -> String {
    let end = url.find(['/', '?', '#']).unwrap_or(url.len());
    let (authority, path) = url.split_at(end);
    // A password with an unescaped slash pushes the `@` out of the authority.
    let (credentials, host) = match authority.rsplit_once('@').or_else(|| url.rsplit_once('@')) {
        Some((credentials, _)) if authority.contains('@') => (
            credentials,
            url.get(credentials.len()..).unwrap_or_default(),
        ),
        Some((credentials, _)) if authority.contains(':') && !is_port(authority) => (
            credentials,
            url.get(credentials.len()..).unwrap_or_default(),
        ),
        _ => return format!("{authority}{path}"),
    };
    match credentials.split_once(':') {
        Some((user, _password)) => format!("{user}:{HIDDEN}{host}"),
        None => url.to_owned(),
    }
}

/// Tells whether an authority without user information ends in a port.
fn is_port(authority: &str) -> bool {
    let port = authority.rsplit_once(':').map(|(_, port)| port);
    port.is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Hides the parameter `password` of a URL's query.
fn mask_parameters(url: &str) -> String {
    let Some((address, query)) = url.split_once('?') else {
        return url.to_owned();
    };
    let parameters = query
        .split('&')
        .map(|parameter| match parameter.split_once('=') {
            Some((name, _)) if name.eq_ignore_ascii_case("password") => format!("{name}={HIDDEN}"),
            _ => parameter.to_owned(),
        });
    format!("{address}?{}", parameters.collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn passwords_are_hidden_and_nothing_else() {
        let cases = [
            (
                "postgres://tollbook@127.0.0.1/tollbook",
                "postgres://tollbook@127.0.0.1/tollbook",
            ),
            (
                "postgres://ann:secret@host:5432/db",
                "postgres://ann:***@host:5432/db",
            ),
            (
                "postgres://ann:se@cret@host/db",
                "postgres://ann:***@host/db",
            ),
            (
                "postgres://ann:se/cret@host/db",
                "postgres://ann:***@host/db",
            ),
            (
                "postgres://host:5432/db?password=x&a=b",
                "postgres://host:5432/db?password=***&a=b",
            ),
            (
                "postgres://host:5432/db?user=a@b",
                "postgres://host:5432/db?user=a@b",
            ),
            (
                "at `postgres://a:b@c/d`, said",
                "at `postgres://a:***@c/d`, said",
            ),
            (
                "two a://b:c@d and e://f:g@h",
                "two a://b:***@d and e://f:***@h",
            ),
            (
                "postgres://ann:se,cr;e'<t>@host/db, from FILE",
                "postgres://ann:***@host/db, from FILE",
            ),
            ("a://b:c@d,e://f:g@h", "a://b:***@d,e://f:***@h"),
            ("<a://b:c@d>", "<a://b:***@d>"),
            ("no url: none", "no url: none"),
        ];
        for (text, masked) in cases {
            assert_eq!(mask(text), masked, "{text}");
        }
    }
}
