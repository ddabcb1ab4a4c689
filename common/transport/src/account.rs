//! Memory that peers make an endpoint hold, by what has arrived of it.
//!
//! Bounds are for a connection, for an address, and in all. Where room is short for all, the one who holds most gives way: of the address whose
//! connections hold most, the connection that does. So nobody takes the place of another who has less.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Part of all that a stranger's connection may hold: one in so many.
const CONNECTION_PART: usize = 8;
/// Time that a request may wait for room; after it, it gives up what it has.
const WAIT: Duration = Duration::from_secs(1);

/// Time after which those who hold most are asked once more.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What the peers of an endpoint may make it hold.
#[derive(Debug)]
pub struct Account {
    limit: usize,
    /// Whether a connection and an address have bounds of their own: where callers are strangers.
    shares: bool,
    inner: Mutex<Inner>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    held: usize,
    next: u64,
    by_address: HashMap<IpAddr, usize>,
    purses: HashMap<u64, Holder>,
}

#[derive(Debug)]
struct Holder {
    address: IpAddr,
    held: usize,
    /// One of its requests that are coming in is to give up what it has.
    gives_way: Arc<Notify>,
}

/// A connection's part of an account.
#[derive(Debug)]
pub struct Purse {
    account: Arc<Account>,
    id: u64,
    gives_way: Arc<Notify>,
}

/// What a request holds, given back when it is dropped.
#[derive(Debug)]
pub struct Charge {
    purse: Arc<Purse>,
    bytes: usize,
}

/// The network that an address counts with: of IPv6 the first 64 bits, which one subscriber has all to himself.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

/// There is no room for what a request brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

impl Account {
    /// For so many bytes. `shares`: a connection and an address have bounds of their own.
    pub fn new(limit: usize, shares: bool) -> Arc<Self> {
        Arc::new(Account {
            limit,
            shares,
            inner: Mutex::default(),
            freed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether more is held than is free: those who are slow are not waited for any longer.
    fn is_tight(&self) -> bool {
        self.lock().held > self.limit / 2
    }

    /// The part of a connection from an address.
    pub fn purse(self: &Arc<Self>, address: IpAddr) -> Arc<Purse> {
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        let gives_way = Arc::new(Notify::new());
        let holder = Holder {
            address: network_of(address),
            held: 0,
            gives_way: Arc::clone(&gives_way),
        };
        inner.purses.insert(id, holder);
        drop(inner);
        Arc::new(Purse {
            account: Arc::clone(self),
            id,
            gives_way,
        })
    }
}

impl Inner {
    /// Of the address whose connections hold most, the one that does is told to give way: where the address holds more than that of the one
    /// who asks would, or, of his own, where the connection does.
    fn ask_to_give_way(&self, asker: IpAddr, would_hold: usize, address_would: usize) {
        let Some((crowded, held)) = self.by_address.iter().max_by_key(|(_, held)| **held) else {
            return;
        };
        let of_address = self.purses.values().filter(|p| p.address == *crowded);
        if let Some(most) = of_address.max_by_key(|p| p.held)
            && (most.held > would_hold || (*crowded != asker && *held > address_would))
        {
            // Those of its requests that come in hear it; one that comes later has done nothing.
            most.gives_way.notify_waiters();
        }
    }
}

impl Purse {
    /// A request that holds nothing yet.
    pub fn charge(self: &Arc<Self>) -> Charge {
        Charge {
            purse: Arc::clone(self),
            bytes: 0,
        }
    }

    /// Its number in the account.
    pub fn id(&self) -> u64 {
        self.id
    }

    fn take(&self, bytes: usize) -> bool {
        if bytes == 0 {
            return true;
        }
        let (limit, shares) = (self.account.limit, self.account.shares);
        let mut inner = self.account.lock();
        let Some(own) = inner.purses.get(&self.id) else {
            return false;
        };
        let (address, own) = (own.address, own.held + bytes);
        let of_address = inner.by_address.get(&address).copied().unwrap_or(0) + bytes;
        if shares && own > limit / CONNECTION_PART {
            return false;
        }
        if inner.held + bytes > limit || (shares && of_address > limit / 4 * 3) {
            if shares {
                inner.ask_to_give_way(address, own, of_address);
            }
            return false;
        }
        inner.held += bytes;
        inner.by_address.insert(address, of_address);
        if let Some(holder) = inner.purses.get_mut(&self.id) {
            holder.held = own;
        }
        true
    }

    fn give_back(&self, bytes: usize) {
        let mut inner = self.account.lock();
        inner.held -= bytes;
        if let Some(holder) = inner.purses.get_mut(&self.id) {
            holder.held -= bytes;
            let address = holder.address;
            if let Some(of_address) = inner.by_address.get_mut(&address) {
                *of_address -= bytes;
                if *of_address == 0 {
                    inner.by_address.remove(&address);
                }
            }
        }
        drop(inner);
        self.account.freed.notify_waiters();
    }
}

impl Drop for Purse {
    fn drop(&mut self) {
        self.account.lock().purses.remove(&self.id);
    }
}

/// Time after which what comes in has to do so at [`LEAST_RATE`], while room is short; also between two looks at it.
pub const SLOW_AFTER: Duration = Duration::from_secs(3);
/// Rate at which it has to, in bytes a second.
const LEAST_RATE: f64 = 8192.0;
/// Room that is made at first for what is announced, so that announcing takes no memory, in bytes (64 KiB).
const FIRST_ROOM: usize = 64 << 10;
/// Factor by which room grows where more arrives.
const GROWTH: usize = 4;

impl Charge {
    /// Whether what began to come in then, of which so many bytes arrived, is not waited for any longer: it is slow, and room is short.
    pub fn is_too_slow(&self, began: Instant, arrived: usize) -> bool {
        let since = began.elapsed();
        let slow = since >= SLOW_AFTER && (arrived as f64) < LEAST_RATE * since.as_secs_f64();
        slow && self.purse.account.is_tight()
    }

    /// Makes room for `more` bytes that arrived, and for some of what is to come, of `most` in all. `Err`: there is none.
    pub async fn make_room(&mut self, bytes: &mut Vec<u8>, more: usize, most: usize) -> Result<(), NoRoom> {
        let room = next_room(bytes, more, most);
        if room > bytes.capacity() {
            self.add(room - bytes.capacity()).await?;
            bytes.reserve_exact(room - bytes.len());
        }
        Ok(())
    }

    /// Tells requests of this connection that come in to give up what they have.
    pub fn gives_way(&self) -> Arc<Notify> {
        Arc::clone(&self.purse.gives_way)
    }

    /// Resolves when that is told.
    pub async fn must_give_way(&self) {
        self.purse.gives_way.notified().await;
    }

    /// Holds so many bytes more, if there is room now.
    pub fn add_now(&mut self, bytes: usize) -> Result<(), NoRoom> {
        if !self.purse.take(bytes) {
            return Err(NoRoom);
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Holds no more than so many bytes from now on.
    pub fn keep(&mut self, bytes: usize) {
        let over = self.bytes.saturating_sub(bytes);
        self.bytes -= over;
        self.purse.give_back(over);
    }

    /// Holds so many bytes more; waits for room for a moment. `Err`: there is none.
    pub async fn add(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let taking = async {
            loop {
                let freed = self.purse.account.freed.notified();
                if self.purse.take(bytes) {
                    return;
                }
                // Whoever was to give way may not have heard it.
                let _either = tokio::time::timeout(ASK_AGAIN, freed).await;
            }
        };
        tokio::time::timeout(WAIT, taking).await.map_err(|_| NoRoom)?;
        self.bytes += bytes;
        Ok(())
    }
}

/// Room for what arrived and some of what is to come; as much as there is, where that does.
pub(crate) fn next_room(bytes: &Vec<u8>, more: usize, most: usize) -> usize {
    let needed = bytes.len() + more;
    match needed <= bytes.capacity() {
        true => bytes.capacity(),
        false => needed.max(GROWTH * bytes.capacity()).max(FIRST_ROOM).min(most),
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.purse.give_back(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LIMIT: usize = 800_000;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(127, 0, 0, last).into()
    }

    /// Fills up all that a connection may hold, in requests of 1000 bytes that stay until they have to give way.
    fn greedy(purse: &Arc<Purse>) -> usize {
        let mut requests = 0;
        while purse.take(1000) {
            requests += 1;
            let charge = Charge {
                purse: Arc::clone(purse),
                bytes: 1000,
            };
            tokio::spawn(async move { charge.must_give_way().await });
        }
        requests
    }

    async fn good_gets_in(account: &Arc<Account>, from: u8) {
        let mut charge = account.purse(address(from)).charge();
        for _ in 0..20 {
            assert_eq!(charge.add(1000).await, Ok(()), "{} are held", account.lock().held);
        }
    }

    #[tokio::test]
    async fn who_fills_up_what_he_can_gives_way_to_those_who_have_less() {
        let account = Account::new(LIMIT, true);
        let mut purses: Vec<_> = (0..20).map(|_| account.purse(address(1))).collect();
        let requests: Vec<usize> = purses.iter().map(greedy).collect();
        assert_eq!(requests[0], 100, "a connection's bound");
        assert_eq!(account.lock().held, LIMIT / 4 * 3, "an address's bound");
        tokio::task::yield_now().await;
        good_gets_in(&account, 1).await;
        good_gets_in(&account, 2).await;
        purses.extend((2..20).map(|last| account.purse(address(last))));
        purses.iter().for_each(|purse| {
            greedy(purse);
        });
        assert!(account.lock().held > LIMIT - 2000, "all is held");
        tokio::task::yield_now().await;
        good_gets_in(&account, 1).await;
        good_gets_in(&account, 99).await;
    }

    #[tokio::test]
    async fn who_waits_for_room_gets_it_when_it_is_there_or_is_told() {
        let account = Account::new(LIMIT, true);
        let purse = account.purse(address(1));
        let (mut first, mut second) = (purse.charge(), purse.charge());
        first.add(60_000).await.unwrap();
        assert_eq!(
            second.add(60_000).await,
            Err(NoRoom),
            "more than a connection may hold"
        );
        let waiting = tokio::spawn(async move { second.add(60_000).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(first);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        drop(purse);
        let inner = account.lock();
        assert!(inner.held == 0 && inner.by_address.is_empty() && inner.purses.is_empty());
    }
}
