//! Who sent a request, when a proxy stands before us; pure.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// Who may post webhooks.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    allowed: Vec<IpNet>,
    trusted_proxies: Vec<IpNet>,
}

impl Allowed {
    /// Lets `allowed` post (anybody when empty) and believes the forwarded header of `trusted_proxies`.
    #[must_use]
    pub fn new(allowed: Vec<IpNet>, trusted_proxies: Vec<IpNet>) -> Self {
        Self { allowed, trusted_proxies }
    }

    /// Whether this request may be read. `forwarded` are the values of `X-Forwarded-For`, in order.
    pub fn permits<'a, I>(&self, peer: IpAddr, forwarded: impl FnOnce() -> I) -> bool
    where
        I: DoubleEndedIterator<Item = &'a str>,
    {
        if self.allowed.is_empty() {
            return true;
        }
        self.client(peer, forwarded()).is_some_and(|client| contains(&self.allowed, client))
    }

    /// The right-most address that is not one of our proxies: what stands left of it was written by
    /// whoever sits there. `None` when a proxy of ours names something that is no address.
    fn client<'a>(
        &self,
        peer: IpAddr,
        forwarded: impl DoubleEndedIterator<Item = &'a str>,
    ) -> Option<IpAddr> {
        let mut client = peer.to_canonical();
        for hop in forwarded.rev().flat_map(|line| line.rsplit(',')) {
            if !contains(&self.trusted_proxies, client) {
                break;
            }
            client = address(hop.trim())?;
        }
        Some(client)
    }
}

fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    bare.parse::<IpAddr>()
        .or_else(|_| hop.parse::<SocketAddr>().map(|socket| socket.ip()))
        .ok()
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().expect("a network")).collect()
    }

    fn permits(peer: &str, forwarded: &[&str]) -> bool {
        Allowed::new(nets(&["3.217.146.166/32", "2001:db8::/32"]), nets(&["10.0.0.0/8"]))
            .permits(peer.parse().expect("an address"), || forwarded.iter().copied())
    }

    #[test]
    fn without_a_list_anybody_may_post() {
        assert!(Allowed::default().permits(IpAddr::from([192, 0, 2, 1]), || ["nonsense"].into_iter()));
    }

    #[test]
    fn the_peer_counts_when_it_is_no_proxy_of_ours() {
        assert!(permits("3.217.146.166", &[]));
        assert!(permits("::ffff:3.217.146.166", &[]));
        assert!(!permits("192.0.2.1", &[]));
        // Anybody can write this header.
        assert!(!permits("192.0.2.1", &["3.217.146.166"]));
        assert!(permits("3.217.146.166", &["192.0.2.1"]));
    }

    #[test]
    fn the_right_most_address_that_is_no_proxy_of_ours_is_the_client() {
        assert!(permits("10.0.0.1", &["3.217.146.166"]));
        assert!(permits("10.0.0.1", &["192.0.2.1, 3.217.146.166 , 10.0.0.2"]));
        assert!(permits("10.0.0.1", &["192.0.2.1", "3.217.146.166", "10.0.0.2"]));
        assert!(permits("10.0.0.1", &["3.217.146.166:4711"]));
        assert!(permits("10.0.0.1", &["[2001:db8::1]:4711"]));
        assert!(permits("10.0.0.1", &["[2001:db8::1]"]));
        assert!(!permits("10.0.0.1", &["3.217.146.166, 192.0.2.1"]));
        assert!(!permits("10.0.0.1", &["3.217.146.166", "192.0.2.1"]));
        assert!(!permits("10.0.0.1", &[]));
        assert!(!permits("10.0.0.1", &["3.217.146.166, unknown"]));
        assert!(!permits("10.0.0.1", &["3.217.146.166,"]));
    }
}
