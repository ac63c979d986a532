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
        let end = after.find(|c: char| c.is_whitespace() || "\"'`<>,;".contains(c));
        let (url, beyond) = after.split_at(end.unwrap_or(after.len()));
        masked.push_str(&mask_parameters(&mask_authority(url)));
        rest = beyond;
    }
    masked.push_str(rest);
    masked
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
            ("no url: none", "no url: none"),
        ];
        for (text, masked) in cases {
            assert_eq!(mask(text), masked, "{text}");
        }
    }
}
