//! Kinds that people define (CustomResourceDefinition): a schema in place of a type, and the same path for the rest.
//!
//! A definition becomes one [`CustomKind`] for each version it serves; these and our own kinds make a [`Catalog`],
//! which the registry swaps as a whole when a definition comes, changes or goes ([`follow`]). Who holds a kind keeps it until
//! done; a watch of a kind that was replaced ends.
//!
//! What a schema says is asked in five pure steps, each a file: [`prune`] drops what it does not declare, [`defaults`] fills
//! in, [`validate`], [`embedded`] and [`rules`] (CEL) judge, and [`structural`] judges the schema itself when it is written. What is not
//! built: conversion by webhooks; all versions of a definition are stored as they are (strategy `None`).

mod columns;
pub(crate) mod defaults;
pub(crate) mod embedded;
pub(crate) mod follow;
mod formats;
mod json_path;
mod kind;
mod names;
mod object;
pub(crate) mod prune;
mod publish;
pub(crate) mod rules;
pub mod schema;
pub(crate) mod structural;
pub(crate) mod validate;

pub use kind::CustomKind;

pub(crate) use json_path::JsonPath;
pub(crate) use schema::Schema;

use crate::{handlers::discovery::Documents, kinds::AnyKind, openapi};
use std::{
    cmp::Ordering,
    sync::{Arc, OnceLock},
};

/// All kinds at one time, and the documents that tell of them, each made when first asked for.
pub(crate) struct Catalog {
    own: &'static [&'static dyn AnyKind],
    custom: Vec<Arc<CustomKind>>,
    discovery: OnceLock<Documents>,
    pub(crate) openapi: openapi::Custom,
}

impl Catalog {
    pub(crate) fn new(own: &'static [&'static dyn AnyKind], mut custom: Vec<Arc<CustomKind>>) -> Self {
        custom.sort_by(|a, b| {
            let (a, b) = (a.resource(), b.resource());
            // The version that clients should prefer comes first.
            (a.group.cmp(b.group)).then(by_priority(a.version, b.version)).then(a.plural.cmp(b.plural))
        });
        Self { own, custom, discovery: OnceLock::new(), openapi: openapi::Custom::default() }
    }

    pub(crate) fn custom(&self) -> &[Arc<CustomKind>] {
        &self.custom
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<CustomKind>> {
        let named = self.custom.iter().find(|k| {
            let r = k.resource();
            r.plural == plural && r.group == group && r.version == version
        });
        named.cloned()
    }

    pub(crate) fn discovery(&self) -> &Documents {
        self.discovery.get_or_init(|| {
            let custom = self.custom.iter().map(|k| &**k as &dyn AnyKind);
            Documents::of(self.own.iter().copied().chain(custom))
        })
    }
}

/// Kubernetes' order of versions: v2, v1, v2beta1, v1beta2, v1alpha1, and what is no such version last, by name.
pub(crate) fn by_priority(a: &str, b: &str) -> Ordering {
    match (stability(a), stability(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// (2 stable, 1 beta, 0 alpha; major; minor)
fn stability(version: &str) -> Option<(u8, u64, u64)> {
    let rest = version.strip_prefix('v')?;
    let number = |text: &str| {
        (text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0')).then(|| text.parse().ok())?
    };
    for (word, rank) in [("beta", 1), ("alpha", 0)] {
        if let Some((major, minor)) = rest.split_once(word) {
            return Some((rank, number(major)?, number(minor)?));
        }
    }
    Some((2, number(rest)?, 0))
}

#[cfg(test)]
mod tests;
