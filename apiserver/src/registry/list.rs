//! List: consistent pages of stored bytes, at one revision, in name order.

use super::{Registry, Selection, facts::Facts, prefix, storage_error};
use crate::{
    error::{ApiError, Result},
    kinds::AnyKind,
    request::{
        info::check_segment,
        options::{ListOptions, Match, ResourceVersion},
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use storage::{Key, KeyValue, Prefix, Revision};

/// Where a list starts, how far it goes, and what it must be true at.
#[derive(Debug, Clone, Default)]
pub struct PageOptions {
    pub at: Option<Revision>,
    /// The newest state will do if it is not older than this.
    pub not_before: Option<Revision>,
    /// Strictly after this key's part below the prefix.
    pub after: Option<String>,
    pub limit: Option<usize>,
}

#[derive(Debug, Clone)]
pub struct Page {
    pub items: Vec<KeyValue>,
    pub revision: Revision,
    /// The token of the next page.
    pub next: Option<String>,
    /// How many objects follow this page; unknown (as in Kubernetes) where a selector decides.
    pub remaining: Option<i64>,
}

/// The token of `continue`: opaque to clients.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    v: u8,
    /// The revision of the first page; absent: take the newest (what an expired token is exchanged for).
    #[serde(skip_serializing_if = "Option::is_none")]
    rv: Option<u64>,
    /// The last key served, below the prefix.
    after: String,
}

const TOKEN_VERSION: u8 = 1;

impl Token {
    fn encode(rv: Option<Revision>, after: &str) -> String {
        let token = Self { v: TOKEN_VERSION, rv: rv.map(|r| r.0), after: after.to_owned() };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }
    fn decode(text: &str) -> Result<Self> {
        let bad = |why: String| ApiError::BadRequest(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|e| bad(e.to_string()))?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        if token.v != TOKEN_VERSION {
            return Err(bad("unknown version".to_owned()));
        }
        for segment in token.after.split('/') {
            check_segment("continue", segment)?;
        }
        Ok(token)
    }
}

impl PageOptions {
    pub fn of(options: &ListOptions) -> Result<Self> {
        let mut page = Self { limit: options.limit, ..Self::default() };
        if !options.continue_token.is_empty() {
            let token = Token::decode(&options.continue_token)?;
            page.at = token.rv.map(Revision);
            page.after = Some(token.after);
            return Ok(page);
        }
        match (options.resource_version, options.resource_version_match) {
            (ResourceVersion::At(rv), Some(Match::Exact)) => page.at = Some(Revision(rv)),
            // Before resourceVersionMatch existed, a limit asked for exactly this revision. It still does.
            (ResourceVersion::At(rv), None) if options.limit.is_some() => page.at = Some(Revision(rv)),
            (ResourceVersion::At(rv), _) => page.not_before = Some(Revision(rv)),
            (ResourceVersion::Unset | ResourceVersion::Any, _) => {}
        }
        Ok(page)
    }
}

impl Registry {
    /// # Errors
    /// `Expired` when the revision asked for is no longer there, with a fresh token if a page was asked for.
    pub async fn list(
        &self,
        kind: &dyn AnyKind,
        namespace: &str,
        selection: &Selection,
        options: &PageOptions,
    ) -> Result<Page> {
        let prefix = prefix(kind, namespace)?;
        if let Some(wanted) = options.not_before {
            let current = self.0.store.revision();
            if wanted > current {
                return Err(ApiError::TooLargeResourceVersion { requested: wanted.0, current: current.0 });
            }
        }
        if options.at.is_none()
            && options.limit.is_none()
            && options.after.is_none()
            && let Some(name) = selection.name()
        {
            return self.list_one(kind, namespace, name, selection).await;
        }
        let mut after = options.after.as_ref().map(|a| Key::new(format!("{}{a}", prefix.as_str())));
        let mut at = options.at;
        let mut items: Vec<KeyValue> = Vec::new();
        loop {
            let wanted = options.limit.map(|limit| limit - items.len());
            let ask = storage::ListOptions { at, after: after.clone(), limit: wanted };
            let list = match self.0.store.list(&prefix, ask).await {
                Ok(list) => list,
                Err(storage::Error::Compacted { .. }) => {
                    return Err(expired(options, after.as_ref(), &prefix));
                }
                Err(e) => return Err(storage_error(e)),
            };
            at = Some(list.revision);
            let last = list.items.last().map(|kv| kv.key.clone());
            let more = list.remaining > 0;
            if selection.is_everything() {
                items.extend(list.items);
            } else {
                items.extend(
                    list.items
                        .into_iter()
                        .filter(|kv| selection.matches(kind, &kv.key, &Facts::of(&kv.value))),
                );
            }
            let full = options.limit.is_some_and(|limit| items.len() >= limit);
            if !more || full {
                let next = last
                    .filter(|_| more)
                    .map(|key| Token::encode(Some(list.revision), &key.as_str()[prefix.as_str().len()..]));
                let remaining = next
                    .as_ref()
                    .filter(|_| selection.is_everything())
                    .map(|_| i64::try_from(list.remaining).unwrap_or(i64::MAX));
                return Ok(Page { items, revision: list.revision, next, remaining });
            }
            after = last;
        }
    }

    /// A list that can hold one object only: a read, not a scan (`kubectl wait`, informers of one object).
    async fn list_one(
        &self,
        kind: &dyn AnyKind,
        namespace: &str,
        name: &str,
        selection: &Selection,
    ) -> Result<Page> {
        let namespace = match (kind.resource().namespaced, namespace) {
            (true, "") => match selection.namespace() {
                Some(namespace) => namespace,
                None => return self.scan(kind, selection).await,
            },
            _ => namespace,
        };
        // The revision first: what is read afterwards is at least as new, so a watch from it misses nothing.
        let revision = self.0.store.revision();
        let Ok(key) = super::key(kind, namespace, name) else {
            return Ok(Page { items: Vec::new(), revision, next: None, remaining: None });
        };
        let found = self.0.store.get(&key).await.map_err(storage_error)?;
        let revision = found.as_ref().map_or(revision, |kv| revision.max(kv.modified));
        let items =
            found.into_iter().filter(|kv| selection.matches(kind, &kv.key, &Facts::of(&kv.value))).collect();
        Ok(Page { items, revision, next: None, remaining: None })
    }

    async fn scan(&self, kind: &dyn AnyKind, selection: &Selection) -> Result<Page> {
        let list = self
            .0
            .store
            .list(&prefix(kind, "")?, storage::ListOptions::default())
            .await
            .map_err(storage_error)?;
        let items = list
            .items
            .into_iter()
            .filter(|kv| selection.matches(kind, &kv.key, &Facts::of(&kv.value)))
            .collect();
        Ok(Page { items, revision: list.revision, next: None, remaining: None })
    }
}

fn expired(options: &PageOptions, after: Option<&Key>, prefix: &Prefix) -> ApiError {
    let Some(after) = after.filter(|_| options.after.is_some()) else {
        return ApiError::Expired {
            message: "The resourceVersion for the provided list is too old.".to_owned(),
            fresh: None,
        };
    };
    ApiError::Expired {
        message: "The provided continue parameter is too old to display a consistent list result. You can start a \
                  new list without the continue parameter, or use the continue token in this response to retrieve \
                  the remainder of the results. Continuing with the provided token results in an inconsistent list - \
                  objects that were created, modified, or deleted between the time the first chunk was returned and \
                  now may show up in the list."
            .to_owned(),
        fresh: Some(Token::encode(None, &after.as_str()[prefix.as_str().len()..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_refuse_strangers() {
        let text = Token::encode(Some(Revision(7)), "default/web-0");
        assert_eq!(Token::decode(&text).unwrap(), Token { v: 1, rv: Some(7), after: "default/web-0".into() });
        let text = Token::encode(None, "x");
        assert_eq!(Token::decode(&text).unwrap().rv, None);
        let climbing = Token::encode(None, "../other");
        for bad in ["", "!!", "e30", climbing.as_str()] {
            assert!(Token::decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_resource_version_asks_for() {
        use ResourceVersion::{Any, At, Unset};
        for (rv, rv_match, limit, at, not_before) in [
            (Unset, None, Some(5), None, None),
            (Any, None, None, None, None),
            (At(9), None, None, None, Some(9)),
            (At(9), None, Some(5), Some(9), None),
            (At(9), Some(Match::Exact), None, Some(9), None),
            (At(9), Some(Match::NotOlderThan), Some(5), None, Some(9)),
        ] {
            let options = ListOptions {
                resource_version: rv,
                resource_version_match: rv_match,
                limit,
                ..Default::default()
            };
            let page = PageOptions::of(&options).unwrap();
            assert_eq!(
                (page.at, page.not_before),
                (at.map(Revision), not_before.map(Revision)),
                "{options:?}"
            );
        }
    }
}
