//! Name resolution that gives public addresses only, so that an address handed out by an API cannot
//! point into the network that this program runs in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::proxies::Proxies;

/// Resolves with the system's resolver and leaves out what is not public. The check is on the very
/// addresses that are connected to.
pub(super) struct PublicHosts {
    /// The proxies, whose own hosts may be private. No file is fetched from them
    /// ([`Proxies::refuse`]).
    pub(super) but: Arc<Proxies>,
}

impl Resolve for PublicHosts {
    fn resolve(&self, name: Name) -> Resolving {
        let a_proxy = self.but.have(name.as_str());
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            if a_proxy {
                let found: Vec<SocketAddr> = found.collect();
                return Ok(Box::new(found.into_iter()) as Addrs);
            }
            let public = public_of(found);
            if public.is_empty() {
                return Err(format!("{} has no public address", name.as_str()).into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// A name may have addresses of both kinds: only the public ones are tried.
fn public_of(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    found.filter(|found| is_public(found.ip())).collect()
}

/// Whether an address is one of the public internet: none of the special-purpose ranges of
/// RFC 6890 and its successors.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped().or_else(|| translated(v6)) {
            Some(v4) => is_public_v4(v4),
            None => is_public_v6(v6),
        },
    }
}

/// The IPv4 address that a translator makes of an IPv6 one (NAT64): a network that has IPv6 alone
/// reaches all of the IPv4 internet by such. Of the local prefix (RFC 8215), whose network chooses
/// where in it the address is (RFC 6052 §2.2), only the part that is zero at all other places,
/// so that the address that is checked here is the only one that can be meant.
fn translated(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    match v6.segments() {
        [0x64, 0xff9b, 0 | 1, 0, 0, 0, high, low] => {
            Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        _ => None,
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    !(a == 0
        || a >= 224
        || v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_documentation()
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        // Relays of 6to4, which there are none of any more.
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19))
        // Azure's own virtual address for the platform of a machine.
        || v4 == Ipv4Addr::new(168, 63, 129, 16))
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    let [a, b, ..] = v6.segments();
    // 2000::/3 is the global unicast range; parts of it tunnel or document.
    a & 0xe000 == 0x2000
        && !(a == 0x2001 && b < 0x0200)
        && !(a == 0x2001 && b == 0x0db8)
        && a != 0x2002
        && a != 0x3fff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        let public = [
            "52.216.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2600:1f18::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "64:ff9b::52.216.1.1",
            "64:ff9b:1::8.8.8.8",
        ];
        for public in public {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        let special = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.0",
            // The metadata of a machine at Alibaba and at Oracle; below, at most others and at AWS.
            "100.100.100.200",
            "192.0.0.192",
            "169.254.169.254",
            "fd00:ec2::254",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.0.0",
            "168.63.129.16",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.0",
            "255.255.255.255",
            "::",
            "::1",
            "100::1",
            "5f00::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "ff02::1",
            "2001:1ff::1",
            "2001:db8::1",
            "3fff::1",
        ];
        for special in special {
            assert!(!is_public(special.parse().unwrap()), "{special}");
        }
    }

    #[test]
    fn an_ipv4_address_within_an_ipv6_one_is_not_public_either() {
        // 127.0.0.1 and 169.254.169.254: mapped, translated (two forms of NAT64 and SIIT),
        // compatible, 6to4, Teredo (its server, and its client with all bits turned).
        let special = [
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b::10.1.2.3",
            "64:ff9b::168.63.129.16",
            "64:ff9b::192.0.0.170",
            "64:ff9b:1::127.0.0.1",
            "64:ff9b:1::192.168.1.1",
            // 10.0.0.1 by the layout for a prefix of 48 bits, 8.8.8.8 by that for 96.
            "64:ff9b:1:a00:0:100:808:808",
            // Of neither prefix.
            "64:ff9b:2::8.8.8.8",
            "64:ff9b:0:1::8.8.8.8",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001:0:7f00:1::",
            "2001:0:808:808:0:0:80ff:fffe",
        ];
        for special in special {
            assert!(!is_public(special.parse().unwrap()), "{special}");
        }
    }

    #[test]
    fn of_a_name_with_addresses_of_both_kinds_only_the_public_are_tried() {
        let found = ["10.0.0.1:0", "8.8.8.8:0", "[::1]:0", "[2600:1f18::1]:0"];
        let public = public_of(found.into_iter().map(|address| address.parse().unwrap()));
        let expected = ["8.8.8.8:0", "[2600:1f18::1]:0"];
        assert_eq!(public, expected.map(|address| address.parse().unwrap()));
        assert_eq!(public_of(["127.0.0.1:0".parse().unwrap()].into_iter()), []);
    }
}
