use proptest::prelude::*;

use super::UrlError::{
    Character, Fragment, Host as Malformed, Insecure, Own, Port, PrivateAddress, PrivateName,
    Scheme, User,
};
use super::*;

const OWN: Option<&str> = Some("streams.example.com");

const STRICT: Limits = Limits::DEFAULT;
const WITH_LOOPBACK: Limits = Limits {
    webhook_loopback: true,
    ..Limits::DEFAULT
};

fn verdict(url: &str, own: Option<&str>, limits: &Limits) -> Result<(), UrlError> {
    check(url, own, limits)
}

const ACCEPTED: [&str; 20] = [
    "https://hooks.example.com",
    "https://hooks.example.com/",
    "https://hooks.example.com/a/b?c=d&e=%20/?:@!$'()*+,;~",
    "https://hooks.example.com?c",
    "https://Hooks.Example.COM/A",
    "https://hooks.example.com:8443/a",
    "https://hooks.example.com:1/",
    "https://hooks.example.com:65535/",
    "https://xn--bcher-kva.example/",
    "https://1.example.com/",
    "https://10.0.0.1.example.com/",
    "https://localhost.example.com/",
    "https://internal.example.com/local",
    "https://notlocal.example/@user",
    "https://93.184.215.14/hook",
    "https://100.63.255.255/",
    "https://172.15.0.1/",
    "https://192.0.1.1/",
    "https://[2606:4700::1111]/hook",
    "https://[2a00:1450:4001:80b::200e]:8443/",
];

const REFUSED: [(&str, UrlError); 120] = [
    // Schemes.
    ("", Scheme),
    ("hooks.example.com", Scheme),
    ("//hooks.example.com/", Scheme),
    ("https:hooks.example.com", Scheme),
    ("https:/hooks.example.com", Scheme),
    ("HTTPS://hooks.example.com", Scheme),
    (" https://hooks.example.com", Scheme),
    ("ftp://hooks.example.com", Scheme),
    ("file:///etc/passwd", Scheme),
    ("javascript:alert(1)", Scheme),
    ("http://hooks.example.com/", Insecure),
    ("http://93.184.215.14/", Insecure),
    // Characters.
    ("https://hooks.example.com/a b", Character),
    ("https://hooks.example.com/a\tb", Character),
    ("https://hooks.example.com/a\r\nHost: b", Character),
    ("https://hooks.example.com/\0", Character),
    ("https://hooks.example.com/\u{7f}", Character),
    ("https://hooks.example.com/ü", Character),
    ("https://hooks.example.com/a\\b", Character),
    ("https://hooks.example.com/%", Character),
    ("https://hooks.example.com/%4", Character),
    ("https://hooks.example.com/%zz", Character),
    ("https://hooks.example.com/?a=\"b\"", Character),
    ("https://hooks.example.com/<a>", Character),
    ("https://hooks.example.com/?a[]=1", Character),
    ("https://hooks.example.com/{a}", Character),
    ("https://hooks.example.com/#a", Fragment),
    ("https://hooks.example.com#a", Fragment),
    ("https://hooks.example.com/?a#", Fragment),
    // Users.
    ("https://user@hooks.example.com/", User),
    ("https://user:password@hooks.example.com/", User),
    ("https://hooks.example.com@10.0.0.1/", User),
    ("https://@hooks.example.com/", User),
    // Ports.
    ("https://hooks.example.com:", Port),
    ("https://hooks.example.com:/", Port),
    ("https://hooks.example.com:0/", Port),
    ("https://hooks.example.com:00443/", Port),
    ("https://hooks.example.com:65536/", Port),
    ("https://hooks.example.com:+443/", Port),
    ("https://hooks.example.com:-1/", Port),
    ("https://hooks.example.com:443:80/", Port),
    ("https://hooks.example.com:https/", Port),
    ("https://[2606:4700::1111]:0/", Port),
    // Hosts in unusual spellings.
    ("https://", Malformed),
    ("https:///hook", Malformed),
    ("https://?a", Malformed),
    ("https://.", Malformed),
    ("https://hooks..example.com/", Malformed),
    ("https://.example.com/", Malformed),
    ("https://hooks.example.com./", Malformed),
    ("https://localhost./", Malformed),
    ("https://10.0.0.1./", Malformed),
    ("https://-a.example.com/", Malformed),
    ("https://a-.example.com/", Malformed),
    ("https://a_b.example.com/", Malformed),
    ("https://hooks.example.com\\@10.0.0.1/", User),
    ("https://hooks.example.com\\.evil.example/", Malformed),
    ("https://hooks example.com/", Malformed),
    ("https://hooks\t.example.com/", Malformed),
    ("https://bücher.example/", Malformed),
    ("https://ⓛocalhost.example/", Malformed),
    ("https://hooks%2eexample.com/", Malformed),
    ("https://%6c%6f%63%61%6c%68%6f%73%74/", Malformed),
    ("https://hooks.example.com,10.0.0.1/", Malformed),
    ("https://*.example.com/", Malformed),
    // Addresses in unusual forms.
    ("https://2130706433/", Malformed),
    ("https://1572395042/", Malformed),
    ("https://0x7f000001/", Malformed),
    ("https://0x7f.0.0.1/", Malformed),
    ("https://0X7F.0.0.0X1/", Malformed),
    ("https://127.0.0.0x/", Malformed),
    ("https://0177.0.0.1/", Malformed),
    ("https://93.184.215.014/", Malformed),
    ("https://017700000001/", Malformed),
    ("https://127.1/", Malformed),
    ("https://93.184.1/", Malformed),
    ("https://0/", Malformed),
    ("https://1.2.3.4.5/", Malformed),
    ("https://256.1.1.1/", Malformed),
    ("https://a.1/", Malformed),
    ("https://[::1/", Malformed),
    ("https://::1/", Malformed),
    ("https://[]/", Malformed),
    ("https://[93.184.215.14]/", Malformed),
    ("https://[fe80::1%25eth0]/", Malformed),
    ("https://[fe80::1%eth0]/", Malformed),
    ("https://[2606:4700::1111]a/", Malformed),
    ("https://[v1.a]/", Malformed),
    // Private names.
    ("https://localhost/", PrivateName),
    ("https://LOCALHOST:8443/", PrivateName),
    ("http://localhost/", PrivateName),
    ("https://a.localhost/", PrivateName),
    ("https://printer.local/", PrivateName),
    (
        "https://metadata.google.internal/computeMetadata/v1/",
        PrivateName,
    ),
    ("https://router.home.arpa/", PrivateName),
    ("https://localhost.localdomain/", PrivateName),
    ("https://intranet/", PrivateName),
    ("https://metadata/", PrivateName),
    // Private addresses.
    ("http://10.0.0.1/hook", PrivateAddress),
    ("https://127.0.0.1/", PrivateAddress),
    ("http://127.0.0.1:8080/", PrivateAddress),
    ("https://0.0.0.0/", PrivateAddress),
    ("https://192.168.1.1/", PrivateAddress),
    ("https://172.31.255.255/", PrivateAddress),
    ("https://169.254.169.254/latest/meta-data/", PrivateAddress),
    ("https://100.100.100.200/latest/meta-data/", PrivateAddress),
    ("https://255.255.255.255/", PrivateAddress),
    ("https://[::1]/", PrivateAddress),
    ("https://[::]/", PrivateAddress),
    ("https://[0:0:0:0:0:0:0:1]/", PrivateAddress),
    ("https://[::ffff:10.0.0.1]/", PrivateAddress),
    ("https://[::ffff:5db8:d70e]/", PrivateAddress),
    ("https://[::127.0.0.1]/", PrivateAddress),
    ("https://[fd00:ec2::254]/", PrivateAddress),
    ("https://[64:ff9b::a9fe:a9fe]/", PrivateAddress),
    // This server.
    ("https://streams.example.com/", Own),
    ("https://STREAMS.example.com/v1/stream/a", Own),
    ("https://streams.example.com:8443/", Own),
    ("http://streams.example.com/", Own),
    ("https://streams.example.com", Own),
];

#[test]
fn webhooks_go_only_to_public_hosts() {
    for url in ACCEPTED {
        assert_eq!(verdict(url, OWN, &STRICT), Ok(()), "{url}");
        assert_eq!(verdict(url, OWN, &WITH_LOOPBACK), Ok(()), "{url}");
    }
    for (url, error) in REFUSED {
        assert_eq!(verdict(url, OWN, &STRICT), Err(error), "{url}");
    }
}

#[test]
fn loopback_is_reached_only_where_it_is_allowed() {
    for url in [
        "http://localhost:3000/hook",
        "https://localhost/",
        "http://LocalHost/",
        "http://127.0.0.1:8080/",
        "https://127.0.0.1/",
        "http://127.255.255.254/",
        "http://[::1]:8080/",
        "https://[::1]/",
    ] {
        assert_eq!(verdict(url, OWN, &WITH_LOOPBACK), Ok(()), "{url}");
        assert!(verdict(url, OWN, &STRICT).is_err(), "{url}");
    }
    for (url, error) in [
        ("http://10.0.0.1/hook", PrivateAddress),
        ("http://hooks.example.com/", Insecure),
        ("http://localhost.example.com/", Insecure),
        ("http://a.localhost/", PrivateName),
        ("http://0.0.0.0/", PrivateAddress),
        ("http://[::]/", PrivateAddress),
        ("http://[::ffff:127.0.0.1]/", PrivateAddress),
        ("http://[::127.0.0.1]/", PrivateAddress),
        ("http://2130706433/", Malformed),
        ("http://127.1/", Malformed),
        ("http://0x7f.0.0.1/", Malformed),
        ("http://localhost./", Malformed),
        ("http://user@localhost/", User),
        ("http://localhost:0/", Port),
        ("http://169.254.169.254/", PrivateAddress),
    ] {
        assert_eq!(verdict(url, OWN, &WITH_LOOPBACK), Err(error), "{url}");
    }
}

#[test]
fn a_webhook_never_goes_to_the_server_itself() {
    for (url, own) in [
        ("https://a.example/", "a.example"),
        ("https://a.example/", "A.Example."),
        ("https://a.example:8443/", "a.example:443"),
        ("https://93.184.215.14/", "93.184.215.14:8080"),
        ("https://[2606:4700:0::1111]/", "[2606:4700::1111]:443"),
        ("http://127.0.0.1:8787/", "127.0.0.1:8787"),
        ("http://localhost:8787/", "127.0.0.1:8787"),
        ("http://[::1]:8787/", "localhost:8787"),
        ("https://localhost/", "localhost"),
        ("http://localhost/", "localhost"),
    ] {
        assert_eq!(
            verdict(url, Some(own), &WITH_LOOPBACK),
            Err(Own),
            "{url} {own}"
        );
        assert_eq!(verdict(url, Some(own), &STRICT), Err(Own), "{url} {own}");
    }
    for (url, own) in [
        ("https://a.example/", "b.example"),
        ("https://b.a.example/", "a.example"),
        ("https://a.example/", "not a host"),
        ("https://a.example/", "[a"),
        ("http://127.0.0.1:8080/", "127.0.0.1:8787"),
        ("http://localhost:8080/", "localhost"),
    ] {
        assert_eq!(
            verdict(url, Some(own), &WITH_LOOPBACK),
            Ok(()),
            "{url} {own}"
        );
    }
    assert_eq!(
        verdict("https://streams.example.com/", None, &STRICT),
        Ok(())
    );
}

#[test]
fn the_length_is_bounded() {
    let limits = Limits {
        webhook_url_bytes_max: 19,
        ..STRICT
    };
    assert_eq!(verdict("https://a.example/1", None, &limits), Ok(()));
    let error = check("https://a.example/12", None, &limits).unwrap_err();
    assert_eq!(error, UrlError::TooLong { max: 19 });
    assert_eq!(error.to_string(), "the URL is longer than 19 bytes");
    let label = |length| format!("https://{}.example/", "a".repeat(length));
    assert_eq!(verdict(&label(63), None, &STRICT), Ok(()));
    assert_eq!(verdict(&label(64), None, &STRICT), Err(Malformed));
    let name = |labels| format!("https://{}example/", "a.".repeat(labels));
    assert_eq!(verdict(&name(123), None, &STRICT), Ok(()));
    assert_eq!(verdict(&name(124), None, &STRICT), Err(Malformed));
}

#[test]
fn the_host_of_a_base_has_its_port() {
    assert_eq!(host_of("https://a.example/base"), Some("a.example"));
    assert_eq!(host_of("http://127.0.0.1:8787"), Some("127.0.0.1:8787"));
    assert_eq!(host_of("a.example"), None);
    assert_eq!(host_of("http:///a"), None);
}

/// The first and the last address of each range, and the addresses beside it if they are
/// public.
#[test]
fn special_ranges_are_not_public() {
    for (first, last, before, after) in [
        ("0.0.0.0", "0.255.255.255", None, Some("1.0.0.0")),
        (
            "10.0.0.0",
            "10.255.255.255",
            Some("9.255.255.255"),
            Some("11.0.0.0"),
        ),
        (
            "100.64.0.0",
            "100.127.255.255",
            Some("100.63.255.255"),
            Some("100.128.0.0"),
        ),
        (
            "127.0.0.0",
            "127.255.255.255",
            Some("126.255.255.255"),
            Some("128.0.0.0"),
        ),
        (
            "168.63.129.16",
            "168.63.129.16",
            Some("168.63.129.15"),
            Some("168.63.129.17"),
        ),
        (
            "169.254.0.0",
            "169.254.255.255",
            Some("169.253.255.255"),
            Some("169.255.0.0"),
        ),
        (
            "172.16.0.0",
            "172.31.255.255",
            Some("172.15.255.255"),
            Some("172.32.0.0"),
        ),
        (
            "192.0.0.0",
            "192.0.0.255",
            Some("191.255.255.255"),
            Some("192.0.1.0"),
        ),
        (
            "192.0.2.0",
            "192.0.2.255",
            Some("192.0.1.255"),
            Some("192.0.3.0"),
        ),
        (
            "192.31.196.0",
            "192.31.196.255",
            Some("192.31.195.255"),
            Some("192.31.197.0"),
        ),
        (
            "192.52.193.0",
            "192.52.193.255",
            Some("192.52.192.255"),
            Some("192.52.194.0"),
        ),
        (
            "192.88.99.0",
            "192.88.99.255",
            Some("192.88.98.255"),
            Some("192.88.100.0"),
        ),
        (
            "192.168.0.0",
            "192.168.255.255",
            Some("192.167.255.255"),
            Some("192.169.0.0"),
        ),
        (
            "192.175.48.0",
            "192.175.48.255",
            Some("192.175.47.255"),
            Some("192.175.49.0"),
        ),
        (
            "198.18.0.0",
            "198.19.255.255",
            Some("198.17.255.255"),
            Some("198.20.0.0"),
        ),
        (
            "198.51.100.0",
            "198.51.100.255",
            Some("198.51.99.255"),
            Some("198.51.101.0"),
        ),
        (
            "203.0.113.0",
            "203.0.113.255",
            Some("203.0.112.255"),
            Some("203.0.114.0"),
        ),
        (
            "224.0.0.0",
            "255.255.255.255",
            Some("223.255.255.255"),
            None,
        ),
        (
            "::",
            "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            None,
            Some("2000::"),
        ),
        (
            "2001::",
            "2001:1ff:ffff::",
            Some("2000:ffff::"),
            Some("2001:200::"),
        ),
        (
            "2001:db8::",
            "2001:db8:ffff::",
            Some("2001:db7:ffff::"),
            Some("2001:db9::"),
        ),
        ("2002::", "2002:ffff::", Some("2001:ffff::"), Some("2003::")),
        (
            "3fff::",
            "3fff:fff:ffff::",
            Some("3ffe:ffff::"),
            Some("3fff:1000::"),
        ),
        (
            "4000::",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            Some("3fff:ffff::"),
            None,
        ),
    ] {
        let is_public = |address: &str| is_public(address.parse().unwrap());
        assert!(!is_public(first) && !is_public(last), "{first} {last}");
        for beside in [before, after].into_iter().flatten() {
            assert!(is_public(beside), "{beside}");
        }
    }
}

#[test]
fn addresses_that_stand_for_others_are_not_public() {
    for address in [
        "::1",
        "::8.8.8.8",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "64:ff9b:1::8.8.8.8",
        "100::1",
        "2001::1",
        "2001:20::1",
        "2002:808:808::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ] {
        assert!(!is_public(address.parse().unwrap()), "{address}");
    }
    for address in ["8.8.8.8", "2606:4700:4700::1111", "2001:4860:4860::8888"] {
        assert!(is_public(address.parse().unwrap()), "{address}");
    }
}

#[test]
fn a_webhook_connects_to_public_addresses_and_if_allowed_to_this_machine() {
    for (address, strict, with_loopback) in [
        ("203.0.114.1", true, true),
        ("2606:4700::1111", true, true),
        ("127.0.0.1", false, true),
        ("::1", false, true),
        ("10.0.0.1", false, false),
        ("169.254.169.254", false, false),
        ("::ffff:10.0.0.1", false, false),
        ("fd00::1", false, false),
    ] {
        let address = address.parse().unwrap();
        assert_eq!(may_connect(address, &STRICT), strict, "{address}");
        assert_eq!(
            may_connect(address, &WITH_LOOPBACK),
            with_loopback,
            "{address}"
        );
    }
}

proptest! {
    #[test]
    fn no_text_is_a_panic(
        url in "(https?://)?[a-z0-9.:@\\[\\]/?#%\\\\ ü-]{0,40}",
        own in "[a-z0-9.:\\[\\]]{0,12}",
    ) {
        for limits in [&STRICT, &WITH_LOOPBACK] {
            if check(&url, Some(&own), limits).is_ok() {
                prop_assert!(url.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }

    #[test]
    fn an_address_is_accepted_if_it_is_public(v4: u32, v6: u128) {
        let (v4, v6) = (Ipv4Addr::from(v4), Ipv6Addr::from(v6));
        let verdict = |url: &str| check(url, None, &STRICT).is_ok();
        prop_assert_eq!(verdict(&format!("https://{v4}/")), is_public(v4.into()));
        prop_assert_eq!(verdict(&format!("https://[{v6}]/")), is_public(v6.into()));
        prop_assert!(!is_public(v4.to_ipv6_mapped().into()));
        prop_assert!(!is_public(v4.to_ipv6_compatible().into()));
        prop_assert!(!is_public(v4.into()) || !v4.is_private() && !v4.is_loopback());
    }
}
