//! LiteLLM's names of providers and models, and the book's.
//!
//! Invariant: a provider keeps the name under which LiteLLM's log calls it; where the shipped book
//! calls the same seller otherwise, the rates stand under that name as well.

/// Returns the book's names of a provider, at least one.
///
/// | in the map | in the book |
/// | --- | --- |
/// | `vertex_ai-language-models`, `vertex_ai-…` | `vertex_ai` |
/// | `bedrock_converse` | `bedrock` |
/// | `bedrock…` with a model `amazon.…` | also `amazon` |
/// | `gemini` | also `google` |
/// | `text-completion-openai`, `text-completion-…` | also `openai`, `…` |
/// | `azure_text`, `cohere_chat` | also `azure`, `cohere` |
/// | `fireworks_ai-embedding-models` | `fireworks_ai` |
/// | any other | the same |
pub(super) fn names(provider: &str, model: &str) -> Vec<String> {
    let kept = |name: &str| vec![name.to_owned()];
    let also = |name: &str| vec![provider.to_owned(), name.to_owned()];
    match provider {
        "bedrock" | "bedrock_converse" if model.starts_with("amazon.") => {
            vec!["bedrock".to_owned(), "amazon".to_owned()]
        }
        "bedrock_converse" => kept("bedrock"),
        "gemini" => also("google"),
        "azure_text" => also("azure"),
        "cohere_chat" => also("cohere"),
        _ if provider.starts_with("vertex_ai-") => kept("vertex_ai"),
        _ => {
            if let Some(name) = provider.strip_prefix("text-completion-") {
                also(name)
            } else {
                kept(
                    provider
                        .strip_suffix("-embedding-models")
                        .unwrap_or(provider),
                )
            }
        }
    }
}

/// Returns the model's name: the key without the provider before its first slash, and whether there
/// was one. Regions and other words before a slash stay: such models have prices of their own.
pub(super) fn without_prefix<'k>(key: &'k str, provider: &str) -> (&'k str, bool) {
    let Some((prefix, name)) = key.split_once('/') else {
        return (key, false);
    };
    let plain = |name: &str| name.replace('-', "_");
    let is_provider = std::iter::once(provider.to_owned())
        .chain(names(provider, name))
        .any(|known| plain(&known) == plain(prefix));
    if is_provider && !name.is_empty() {
        (name, true)
    } else {
        (key, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_log_and_of_the_shipped_book() {
        let cases: [(&str, &str, &str, &[&str]); 10] = [
            ("gpt-4o", "openai", "gpt-4o", &["openai"]),
            ("openai/gpt-4o", "openai", "gpt-4o", &["openai"]),
            ("azure/eu/gpt-4o", "azure", "eu/gpt-4o", &["azure"]),
            (
                "gemini/gemini-2.5-pro",
                "gemini",
                "gemini-2.5-pro",
                &["gemini", "google"],
            ),
            (
                "vertex_ai/claude-x",
                "vertex_ai-anthropic_models",
                "claude-x",
                &["vertex_ai"],
            ),
            (
                "bedrock/us-east-1/anthropic.claude-x",
                "bedrock",
                "us-east-1/anthropic.claude-x",
                &["bedrock"],
            ),
            (
                "amazon.nova-pro-v1:0",
                "bedrock_converse",
                "amazon.nova-pro-v1:0",
                &["bedrock", "amazon"],
            ),
            (
                "amazon-nova/nova-x",
                "amazon_nova",
                "nova-x",
                &["amazon_nova"],
            ),
            (
                "low/1024-x-1024/gpt-image-1",
                "openai",
                "low/1024-x-1024/gpt-image-1",
                &["openai"],
            ),
            (
                "davinci-002",
                "text-completion-openai",
                "davinci-002",
                &["text-completion-openai", "openai"],
            ),
        ];
        for (key, provider, model, providers) in cases {
            assert_eq!(without_prefix(key, provider).0, model, "{key}");
            assert_eq!(names(provider, model), providers, "{key}");
        }
    }
}
