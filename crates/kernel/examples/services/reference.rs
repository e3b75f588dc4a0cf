//! For comparison: the layout that kube-proxy uses in its nftables mode, a chain for each service and one for each
//! endpoint, loaded by `nft` in one transaction.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Instant;

use crate::measure::ms;

/// Loads so many services.
pub(crate) fn measure(services: u32, endpoints: u32) {
    let file = std::env::temp_dir().join(format!("cambric-reference-{}.nft", std::process::id()));
    std::fs::write(&file, rules(services, endpoints)).unwrap();
    let start = Instant::now();
    let status = Command::new("nft").arg("-f").arg(&file).status().unwrap();
    let took = start.elapsed();
    std::fs::remove_file(&file).unwrap();
    assert!(status.success());
    println!(
        "{services:>8} {:>10} {:>9.1}  a chain per service and endpoint, loaded by nft -f",
        services * endpoints,
        ms(took)
    );
}

fn rules(services: u32, endpoints: u32) -> String {
    let mut text = String::from("table ip reference {\n");
    let mut map = String::new();
    for number in 0..services {
        let [_, high, middle, low] = (0x0a60_0000 + number + 1).to_be_bytes();
        writeln!(map, "    10.{high}.{middle}.{low} . tcp . 80 : goto service-{number},").unwrap();
        let mut picks = String::new();
        for index in 0..endpoints {
            let [_, high, middle, low] = (number * 16 + index + 0x0001_0000).to_be_bytes();
            let high = 128 + high;
            writeln!(
                text,
                "  chain endpoint-{number}-{index} {{\n    ip saddr 10.{high}.{middle}.{low} jump mark-for-masquerade\n    \
                 meta l4proto tcp dnat to 10.{high}.{middle}.{low}:8080\n  }}"
            )
            .unwrap();
            write!(picks, "{index} : goto endpoint-{number}-{index}, ").unwrap();
        }
        writeln!(
            text,
            "  chain service-{number} {{\n    ip daddr 10.{high}.{middle}.{low} tcp dport 80 ip saddr != 10.128.0.0/9 \
             jump mark-for-masquerade\n    numgen random mod {endpoints} vmap {{ {picks} }}\n  }}"
        )
        .unwrap();
    }
    format!(
        "table ip reference {{\n  chain mark-for-masquerade {{\n    meta mark set meta mark or 0x4000\n  }}\n}}\n\
         {text}  map services {{\n    type ipv4_addr . inet_proto . inet_service : verdict\n    elements = {{\n{map}    }}\n  }}\n\
         \x20 chain prerouting {{\n    type nat hook prerouting priority dstnat; policy accept;\n    \
         ip daddr . meta l4proto . th dport vmap @services\n  }}\n}}\n"
    )
}
