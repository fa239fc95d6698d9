//! Where a client may connect to. A name is judged by the addresses that it has at the moment of the connection, so that one which changes its
//! mind between a check and a call leads nowhere inside.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// What beside public addresses may be called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Addresses {
    /// This machine.
    pub loopback: bool,
    /// Networks of one's own.
    pub private: bool,
}

impl Addresses {
    pub fn may_call(self, address: IpAddr) -> bool {
        match kind(address) {
            Kind::Public => true,
            Kind::Loopback => self.loopback,
            Kind::Private => self.private,
            Kind::Special => false,
        }
    }
}

enum Kind {
    Public,
    Loopback,
    Private,
    /// Link-local ones, where clouds tell secrets to whoever asks, and what is no single machine's.
    Special,
}

fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(v4) => kind_of_v4(v4),
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) => kind_of_v4(v4),
            None if v6.is_loopback() => Kind::Loopback,
            None if v6.is_unique_local() => Kind::Private,
            None if v6.segments()[0] & 0xe000 == 0x2000 && v6.segments()[..2] != [0x2001, 0x0db8] => Kind::Public,
            None => Kind::Special,
        },
    }
}

/// The IPv4 address that an IPv6 one leads to: mapped, translated (64:ff9b::/96) or tunnelled (2002::/16).
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = v6.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some(of(high, low)),
        _ => v6.to_ipv4_mapped(),
    }
}

fn kind_of_v4(v4: Ipv4Addr) -> Kind {
    let [a, b, c, _] = v4.octets();
    match (a, b, c) {
        (127, ..) => Kind::Loopback,
        (10, ..) | (192, 168, _) | (100, 64..=127, _) => Kind::Private,
        (172, 16..=31, _) => Kind::Private,
        (0, ..) | (169, 254, _) | (192, 0, 0 | 2) | (198, 18..=19, _) | (198, 51, 100) | (203, 0, 113) => Kind::Special,
        (224.., ..) => Kind::Special,
        _ => Kind::Public,
    }
}

/// Resolves names to what may be called alone.
pub(super) struct Only(pub Addresses);

impl Resolve for Only {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let open: Vec<SocketAddr> = found.filter(|address| allowed.may_call(address.ip())).collect();
            if open.is_empty() {
                return Err(io::Error::other("the host has no address that may be called").into());
            }
            Ok(Box::new(open.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inside_is_not_called() {
        let (outside, here) = (Addresses::default(), Addresses { loopback: true, private: false });
        let may = |allowed: Addresses, address: &str| allowed.may_call(address.parse().unwrap());
        for public in ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8"] {
            assert!(may(outside, public), "{public}");
        }
        let inside = [
            "127.0.0.1",
            "::1",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.9.9",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "::",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "2001:db8::1",
        ];
        for address in inside {
            assert!(!may(outside, address), "{address}");
        }
        assert!(may(here, "127.0.0.1") && may(here, "::1") && !may(here, "10.0.0.1"));
        let private = Addresses { loopback: false, private: true };
        assert!(may(private, "10.0.0.1") && may(private, "fd12::1") && !may(private, "127.0.0.1"));
        assert!(!may(private, "169.254.169.254"));
    }
}
