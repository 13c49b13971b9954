//! Who waits, and whose turn it is: priorities first, then tenants by the service that they have received, then first come, first
//! served.
//!
//! The service of a tenant is counted in tokens, those of prompts on admission, those of answers double and as they come, as in the virtual token counter of Sheng et al., "Fairness
//! in Serving Large Language Models", 2024. A tenant that comes back from a time without requests starts where the least served of
//! the others stands, so that nobody saves up turns.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::serve::request::RequestId;

/// What a token of a prompt costs.
pub(super) const PROMPT_COST: u64 = 1;
/// What a token of an answer costs.
pub(super) const OUTPUT_COST: u64 = 2;

/// Tenants without requests whose service is remembered; of more, those that received least are forgotten.
const REMEMBERED: usize = 4096;

#[derive(Debug, Default)]
struct Tenant {
    served: u64,
    /// Requests that have not ended.
    requests: usize,
}

/// Requests that wait, and what their tenants have received.
#[derive(Debug, Default)]
pub(super) struct Queue {
    levels: BTreeMap<Reverse<i32>, BTreeMap<String, BTreeSet<RequestId>>>,
    tenants: BTreeMap<Arc<str>, Tenant>,
    /// Tenants with requests, by their service.
    active: BTreeSet<(u64, Arc<str>)>,
    /// Tenants without, by theirs.
    idle: BTreeSet<(u64, Arc<str>)>,
    /// The least service of an active tenant, at the last count; it never falls.
    floor: u64,
}

impl Queue {
    /// A tenant has one more request.
    pub(super) fn arrive(&mut self, tenant: &str) {
        self.raise_floor();
        let (name, mut entry) = self.take(tenant).unwrap_or_else(|| (tenant.into(), Tenant::default()));
        if entry.requests == 0 {
            entry.served = entry.served.max(self.floor);
        }
        entry.requests += 1;
        self.put(name, entry);
    }

    /// A request of a tenant has ended. What a tenant without requests received is remembered as long as it matters, and as there is
    /// room for it.
    pub(super) fn depart(&mut self, tenant: &str) {
        self.raise_floor();
        if let Some((name, mut entry)) = self.take(tenant) {
            entry.requests = entry.requests.saturating_sub(1);
            self.put(name, entry);
        }
        while let Some((served, _)) = self.idle.first()
            && (*served <= self.floor || self.idle.len() > REMEMBERED)
        {
            if let Some((_, name)) = self.idle.pop_first() {
                self.tenants.remove(&name);
            }
        }
    }

    /// A tenant was served.
    pub(super) fn charge(&mut self, tenant: &str, cost: u64) {
        if let Some((name, mut entry)) = self.take(tenant) {
            entry.served = entry.served.saturating_add(cost);
            self.put(name, entry);
        }
    }

    /// Takes a tenant out of the books.
    fn take(&mut self, tenant: &str) -> Option<(Arc<str>, Tenant)> {
        let (name, entry) = self.tenants.remove_entry(tenant)?;
        let key = (entry.served, name);
        if entry.requests > 0 {
            self.active.remove(&key)
        } else {
            self.idle.remove(&key)
        };
        Some((key.1, entry))
    }

    /// Enters a tenant into the books.
    fn put(&mut self, name: Arc<str>, entry: Tenant) {
        let by_service = if entry.requests > 0 { &mut self.active } else { &mut self.idle };
        by_service.insert((entry.served, name.clone()));
        self.tenants.insert(name, entry);
    }

    /// A request waits.
    pub(super) fn insert(&mut self, priority: i32, tenant: &str, id: RequestId) {
        let level = self.levels.entry(Reverse(priority)).or_default();
        level.entry(tenant.to_string()).or_default().insert(id);
    }

    /// A request waits no longer; nothing where it did not.
    pub(super) fn remove(&mut self, priority: i32, tenant: &str, id: RequestId) {
        let Some(level) = self.levels.get_mut(&Reverse(priority)) else { return };
        let Some(waiting) = level.get_mut(tenant) else { return };
        waiting.remove(&id);
        if waiting.is_empty() {
            level.remove(tenant);
        }
        if level.is_empty() {
            self.levels.remove(&Reverse(priority));
        }
    }

    /// Whose turn it is, with the priority.
    pub(super) fn head(&self) -> Option<(i32, RequestId)> {
        let (Reverse(priority), level) = self.levels.first_key_value()?;
        let served = |tenant: &str| self.tenants.get(tenant).map_or(0, |entry| entry.served);
        let heads = level.iter().filter_map(|(tenant, waiting)| Some((served(tenant), *waiting.first()?)));
        heads.min().map(|(_, id)| (*priority, id))
    }

    fn raise_floor(&mut self) {
        if let Some((least, _)) = self.active.first() {
            self.floor = self.floor.max(*least);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(waiting: &[(i32, &str)]) -> Queue {
        let mut queue = Queue::default();
        for (i, (priority, tenant)) in waiting.iter().enumerate() {
            queue.arrive(tenant);
            queue.insert(*priority, tenant, RequestId(i as u64));
        }
        queue
    }

    fn next(queue: &mut Queue, owners: &[(i32, &str)], cost: u64) -> Option<u64> {
        let (priority, id) = queue.head()?;
        let tenant = owners[id.0 as usize].1;
        queue.remove(priority, tenant, id);
        queue.charge(tenant, cost);
        Some(id.0)
    }

    #[test]
    fn tenants_take_turns_and_each_is_served_in_order() {
        let owners = [(0, "a"), (0, "a"), (0, "a"), (0, "b"), (0, "b"), (1, "a")];
        let mut queue = queue(&owners);
        let order: Vec<u64> = std::iter::from_fn(|| next(&mut queue, &owners, 10)).collect();
        assert_eq!(order, [5, 3, 0, 4, 1, 2], "the one of priority 1 counts as service too");
    }

    #[test]
    fn a_tenant_that_was_idle_starts_where_the_least_served_stands() {
        let mut queue = Queue::default();
        queue.arrive("busy");
        queue.charge("busy", 1000);
        queue.arrive("late");
        queue.insert(0, "busy", RequestId(0));
        queue.insert(0, "late", RequestId(1));
        assert_eq!(queue.head(), Some((0, RequestId(0))), "equals go by age");
        queue.charge("busy", 1);
        assert_eq!(queue.head(), Some((0, RequestId(1))));
    }

    #[test]
    fn service_is_not_forgotten_by_a_short_absence() {
        let mut queue = Queue::default();
        queue.arrive("modest");
        queue.arrive("greedy");
        queue.charge("greedy", 500);
        queue.depart("greedy");
        queue.arrive("greedy");
        queue.insert(0, "greedy", RequestId(0));
        queue.insert(0, "modest", RequestId(1));
        assert_eq!(queue.head(), Some((0, RequestId(1))));
    }

    #[test]
    fn tenants_that_came_once_leave_no_trace() {
        let mut queue = Queue::default();
        for i in 0..100 {
            let tenant = format!("tenant {i}");
            queue.arrive(&tenant);
            queue.charge(&tenant, 7);
            queue.depart(&tenant);
        }
        assert!(queue.tenants.len() <= 1 && queue.levels.is_empty());
    }

    #[test]
    fn tenants_that_come_once_are_few_though_one_request_stays() {
        let mut queue = Queue::default();
        queue.arrive("patient");
        queue.arrive("greedy");
        queue.charge("greedy", 1_000_000);
        queue.depart("greedy");
        for i in 0..100_000 {
            let tenant = format!("tenant {i}");
            queue.arrive(&tenant);
            queue.charge(&tenant, 7);
            queue.depart(&tenant);
        }
        assert_eq!((queue.tenants.len(), queue.idle.len(), queue.active.len()), (REMEMBERED + 1, REMEMBERED, 1));
        // Who received most is remembered longest.
        queue.arrive("greedy");
        queue.insert(0, "greedy", RequestId(0));
        queue.arrive("new");
        queue.charge("new", 999_999);
        queue.insert(0, "new", RequestId(1));
        assert_eq!(queue.head(), Some((0, RequestId(1))));
        // Once the floor is above them all, nobody is.
        queue.charge("patient", 2_000_000);
        ["new", "greedy", "patient"].into_iter().for_each(|tenant| queue.depart(tenant));
        assert!(queue.tenants.is_empty() && queue.idle.is_empty() && queue.active.is_empty());
    }

    #[test]
    fn the_floor_is_that_of_a_count_over_all() {
        let mut queue = Queue::default();
        let mut plain: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
        let (mut floor, mut dice) = (0, 1u64);
        for _ in 0..20_000 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (tenant, what) = ((dice >> 33) % 50, (dice >> 50) % 3);
            if what < 2 {
                let least = plain.values().filter(|(_, requests)| *requests > 0).map(|(served, _)| *served).min();
                floor = least.map_or(floor, |least| floor.max(least));
            }
            let name = tenant.to_string();
            match what {
                0 => {
                    let (served, requests) = plain.entry(tenant).or_default();
                    *served = if *requests == 0 { floor.max(*served) } else { *served };
                    *requests += 1;
                    queue.arrive(&name);
                }
                1 => {
                    if let Some((_, requests)) = plain.get_mut(&tenant).filter(|(_, requests)| *requests > 0) {
                        *requests -= 1;
                        queue.depart(&name);
                        plain.retain(|_, (served, requests)| *requests > 0 || *served > floor);
                    }
                }
                _ => {
                    if let Some((served, _)) = plain.get_mut(&tenant).filter(|(_, requests)| *requests > 0) {
                        *served += dice >> 58;
                        queue.charge(&name, dice >> 58);
                    }
                }
            }
            let found = queue.tenants.iter().map(|(name, t)| (name.parse().unwrap(), (t.served, t.requests)));
            assert_eq!(found.collect::<BTreeMap<u64, (u64, usize)>>(), plain);
        }
    }
}
