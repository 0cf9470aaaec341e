//! A map that is cheap to copy and then change: readers keep the old copy, the copy costs one shard per change.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::Arc,
};

/// With 10,000 services a change copies some 40 entries; the copy of the whole costs 256 reference counts.
const SHARDS: usize = 256;

pub(crate) struct CowMap<K, V> {
    shards: Box<[Arc<HashMap<K, V>>]>,
    hasher: RandomState,
}

impl<K, V> Clone for CowMap<K, V> {
    fn clone(&self) -> Self {
        Self { shards: self.shards.clone(), hasher: self.hasher.clone() }
    }
}

impl<K, V> Default for CowMap<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashMap::new());
        Self { shards: (0..SHARDS).map(|_| empty.clone()).collect(), hasher: RandomState::new() }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> CowMap<K, V> {
    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        // Cannot truncate: the remainder is below SHARDS.
        (self.hasher.hash_one(key) % SHARDS as u64) as usize
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.shards[self.shard(key)].get(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        let shard = self.shard(&key);
        Arc::make_mut(&mut self.shards[shard]).insert(key, value);
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let shard = self.shard(key);
        if !self.shards[shard].contains_key(key) {
            return None;
        }
        Arc::make_mut(&mut self.shards[shard]).remove(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_changes_alone() {
        let mut old = CowMap::default();
        for i in 0..1000 {
            old.insert(i, "old");
        }
        let mut new = old.clone();
        new.insert(1, "new");
        assert_eq!(new.remove(&2), Some("old"));
        assert_eq!(new.remove(&5000), None);
        assert_eq!((old.get(&1), old.get(&2)), (Some(&"old"), Some(&"old")));
        assert_eq!((new.get(&1), new.get(&2), new.get(&3)), (Some(&"new"), None, Some(&"old")));
        let copied = old.shards.iter().zip(&new.shards).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        assert!(copied <= 2);
    }
}
