
# Everything below is the same for every host; what is particular to this one stands above.
# Nothing is fetched but packages of the distribution. Running it again changes nothing that is right already.
# With ENROL_ROOT in the environment files are read and written below that folder instead of /, to try the script out;
# packages, services and users stay those of the system it runs on.

ENROL_ROOT=${ENROL_ROOT:-}
OURS=/etc/docker/derp-portal
EXPORTER_PORT=9100
ENGINE_CHANGED=no
APT_SOURCES=()
WROTE=no
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
# Some answers are read below, and they must not come in another language.
export LC_ALL=C

say() { printf '==> %s\n' "$*"; }
warn() { printf 'WARNING: %s\n' "$*" >&2; }
refuse() {
    printf 'ERROR: %s\n' "$*" >&2
    exit 1
}

# Write standard input to a file unless it says so already. WROTE tells whether the file changed, so that only what has
# to be is restarted. mktemp's file is root's alone until its mode is set, and the move shows readers all of it at once.
put() { # MODE PATH
    local mode=$1 path=$ENROL_ROOT$2 folder fresh
    WROTE=no
    folder=$(dirname "$path")
    [ -d "$folder" ] || install -d -m 0755 "$folder"
    fresh=$(mktemp "$path.XXXXXX")
    cat >"$fresh"
    if cmp -s "$fresh" "$path"; then
        rm "$fresh"
        chmod "$mode" "$path"
        return
    fi
    chmod "$mode" "$fresh"
    mv "$fresh" "$path"
    WROTE=yes
    say "wrote $path"
}

# For what the engine reads at its start only.
put_for_engine() { # MODE PATH
    put "$@"
    [ "$WROTE" = no ] || ENGINE_CHANGED=yes
}

check_host() {
    # Half of what follows needs root, and stopping in the middle helps nobody.
    [ "$(id -u)" = 0 ] || refuse "this script must run as root; log in as root or put sudo before bash"
    [ -r "$ENROL_ROOT/etc/os-release" ] || refuse "/etc/os-release is missing, so this is no Debian or Ubuntu; nothing was changed"
    # Package names and unit files below were checked on these releases only.
    DISTRIBUTION=$(sed -n 's/^ID=//p' "$ENROL_ROOT/etc/os-release" | tr -d \")
    RELEASE=$(sed -n 's/^VERSION_ID=//p' "$ENROL_ROOT/etc/os-release" | tr -d \")
    CODENAME=$(sed -n 's/^VERSION_CODENAME=//p' "$ENROL_ROOT/etc/os-release" | tr -d \")
    case "$DISTRIBUTION $RELEASE" in
    "debian 11" | "debian 12" | "debian 13" | "ubuntu 20.04" | "ubuntu 22.04" | "ubuntu 24.04") ;;
    *) refuse "$DISTRIBUTION $RELEASE is not supported: use Debian 11, 12 or 13, or Ubuntu 20.04, 22.04 or 24.04; nothing was changed" ;;
    esac
    # The options of the command line and those of daemon.json must not name the same thing: the engine would not start.
    if grep -Eqs '^[^#]*DOCKER_OPTS=.*(-H|--host|--tls)' "$ENROL_ROOT/etc/default/docker"; then
        refuse "/etc/default/docker sets -H, --host or --tls in DOCKER_OPTS; take them out first; nothing was changed"
    fi
}

apt_get() {
    # A fresh host often still runs its first automatic update: wait for it rather than fail.
    DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "${APT_SOURCES[@]}" "$@"
}

mirror_sources() {
    case $DISTRIBUTION in
    debian) printf 'deb %s %s main\n' "$APT_MIRROR" "$CODENAME" "$APT_MIRROR-security" "$CODENAME-security" ;;
    ubuntu) printf 'deb %s %s main universe\n' "$APT_MIRROR" "$CODENAME" "$APT_MIRROR" "$CODENAME-updates" "$APT_MIRROR" "$CODENAME-security" ;;
    esac
}

refresh_packages() {
    if [ -n "$APT_MIRROR" ]; then
        # The operator's own sources stay as they are: the mirror serves this script alone.
        put 0644 $OURS/apt.list <<<"$(mirror_sources)"
        APT_SOURCES=(-o "Dir::Etc::SourceList=$ENROL_ROOT$OURS/apt.list" -o Dir::Etc::SourceParts=- -o APT::Get::List-Cleanup=0)
    fi
    say "reading the lists of packages"
    # The first automatic update may hold this lock too, and for it apt-get has no patience of its own.
    local attempt
    for attempt in 1 2 3 4; do
        apt_get update && return
        say "attempt $attempt failed"
        sleep 10
    done
    refuse "apt-get update failed; see above. Behind a slow line, name a mirror with --apt-mirror"
}

install_packages() {
    apt_get install -y --no-install-recommends "$@" ||
        refuse "apt-get could not install $*; see above. On Ubuntu they are in the universe section: add-apt-repository universe"
}

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

install_basics() {
    # python3 merges daemon.json without losing what stands in it.
    local packages=(ca-certificates python3)
    [ "$FIREWALL" = no ] || packages+=(nftables)
    install_packages "${packages[@]}"
}

keep_time() {
    # Certificates and the relays' deadlines mean nothing on a host whose clock is wrong.
    local service
    for service in chrony chronyd ntpsec ntp ntpd openntpd systemd-timesyncd; do
        if systemctl is-active --quiet "$service"; then
            say "the clock is kept by $service"
            return
        fi
    done
    install_packages systemd-timesyncd
    systemctl enable --now systemd-timesyncd || warn "the time service does not start; keep the clock right in another way"
}

write_firewall() {
    # Published ports of containers never pass the INPUT chain, so they are judged in the forward chain, by the port that
    # was asked for. A table of our own leaves Docker's rules and the operator's alone: it can only refuse, it opens nothing,
    # and it says nothing about ssh or other services of the host. Applied again it replaces itself in one step.
    local from_portal_ipv4="" from_portal_ipv6=""
    [ -z "$PORTAL_IPV4" ] || from_portal_ipv4="ip saddr { $PORTAL_IPV4 } accept"
    [ -z "$PORTAL_IPV6" ] || from_portal_ipv6="ip6 saddr { $PORTAL_IPV6 } accept"
    put 0600 $OURS/firewall.nft <<END
table inet derp_portal
delete table inet derp_portal
table inet derp_portal {
	chain portal_only {
		iifname "lo" accept
		$from_portal_ipv4
		$from_portal_ipv6
		counter drop
	}
	chain input {
		type filter hook input priority -10; policy accept;
		tcp dport { $ENGINE_PORT, $EXPORTER_PORT } jump portal_only
	}
	chain forward {
		type filter hook forward priority -10; policy accept;
		ct direction original ct status dnat meta l4proto { tcp, udp } ct original proto-dst != $PORT_FIRST-$PORT_LAST counter drop
	}
}
END
}

apply_firewall() {
    if [ "$FIREWALL" = no ]; then
        warn "no firewall, as asked: see to it that only the portal reaches ports $ENGINE_PORT and $EXPORTER_PORT"
        return
    fi
    write_firewall
    # Early as the distribution's own nftables.service, and again whenever that one has emptied the tables.
    put 0644 /etc/systemd/system/derp-portal-firewall.service <<END
[Unit]
Description=Engine and node exporter for the DERP portal only
Wants=network-pre.target
Before=network-pre.target shutdown.target
After=nftables.service
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service
Conflicts=shutdown.target
DefaultDependencies=no

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f $OURS/firewall.nft
ExecReload=/usr/sbin/nft -f $OURS/firewall.nft

[Install]
WantedBy=sysinit.target
END
    systemctl daemon-reload
    nft -c -f "$ENROL_ROOT$OURS/firewall.nft" || refuse "nft does not take the rules in $OURS/firewall.nft; the engine was not opened"
    systemctl enable derp-portal-firewall.service
    systemctl restart derp-portal-firewall.service || refuse "the firewall could not be set; the engine was not opened"
}

open_other_firewalls() {
    # A firewall that refuses by itself stands before ours, and our table cannot open what it closes.
    local from
    [ "$FIREWALL" = yes ] || return 0
    # No pipes into `grep -q`: it hangs up early, and pipefail would take that for a failure.
    if command -v ufw >/dev/null && grep -q '^Status: active' <<<"$(ufw status)"; then
        ufw allow "$PORT_FIRST:$PORT_LAST/tcp"
        ufw allow "$PORT_FIRST:$PORT_LAST/udp"
        for from in ${PORTAL_IPV4//,/ } ${PORTAL_IPV6//,/ }; do
            ufw allow from "$from" to any port "$ENGINE_PORT" proto tcp
            ufw allow from "$from" to any port "$EXPORTER_PORT" proto tcp
        done
    elif systemctl is-active --quiet firewalld; then
        warn "firewalld is active: open $PORT_FIRST-$PORT_LAST/tcp and /udp for all, $ENGINE_PORT/tcp and $EXPORTER_PORT/tcp for the portal"
    elif command -v iptables >/dev/null && grep -Eq '^-P INPUT DROP|^-A INPUT .*-j (DROP|REJECT)' <<<"$(iptables -S INPUT 2>/dev/null)"; then
        warn "iptables refuses incoming traffic on this host: open $ENGINE_PORT/tcp and $EXPORTER_PORT/tcp for the portal in its INPUT chain"
    fi
}

install_engine() {
    # apparmor is only recommended, but where the kernel has it no container starts without its parser.
    local packages=(iptables apparmor)
    if is_installed docker-ce; then
        say "keeping the Docker engine that is installed already"
    else
        packages+=(docker.io)
        # Debian 13 has the client in a package of its own; an engine reached over ssh is reached through it.
        if apt-cache "${APT_SOURCES[@]}" show docker-cli >/dev/null 2>&1; then
            packages+=(docker-cli)
        fi
    fi
    install_packages "${packages[@]}"
}

write_certificates() {
    put_for_engine 0600 $OURS/ca.pem <<<"$CA_PEM"
    put_for_engine 0600 $OURS/server-cert.pem <<<"$CERT_PEM"
    put_for_engine 0600 $OURS/server-key.pem <<<"$KEY_PEM"
}

# Prints daemon.json as it should be, keeping what the operator wrote there; fails, saying why, if it is not JSON.
merged_engine_config() {
    python3 - "$ENROL_ROOT/etc/docker/daemon.json" "$TRANSPORT" "$ENGINE_LISTENS" "$OURS" "${MIRRORS[@]}" <<'END'
import json
import os
import sys

path, transport, listens, ours, *mirrors = sys.argv[1:]
text = open(path, encoding="utf-8").read() if os.path.exists(path) else ""
try:
    config = json.loads(text) if text.strip() else {}
    if not isinstance(config, dict):
        raise ValueError("it is not an object")
except ValueError as error:
    sys.exit("%s is not valid JSON: %s" % (path, error))
before = json.loads(json.dumps(config))

# Relays outlive a restart of the engine.
config["live-restore"] = True
if not config.keys() & {"log-driver", "log-opts"}:
    # Without a limit a chatty container fills a small disk.
    config["log-driver"] = "json-file"
    config["log-opts"] = {"max-size": "10m", "max-file": "3"}
if mirrors:
    theirs = [one for one in config.get("registry-mirrors", []) if one.rstrip("/") not in mirrors]
    config["registry-mirrors"] = mirrors + theirs
if transport == "tls":
    config["tls"] = config["tlsverify"] = True
    for option, file in (("tlscacert", "ca"), ("tlscert", "server-cert"), ("tlskey", "server-key")):
        config[option] = "%s/%s.pem" % (ours, file)
    # A wildcard address is of an earlier run, or was open to the world: only ours stays.
    hosts = [one for one in config.get("hosts", []) if not one.startswith(("tcp://0.0.0.0:", "tcp://[::]:"))]
    if not any(one.startswith(("unix:", "fd:")) for one in hosts):
        hosts.insert(0, "fd://")  # The socket that systemd keeps for the host's own programs.
    config["hosts"] = hosts + [listens]
sys.stdout.write(text if config == before else json.dumps(config, indent=2) + "\n")
END
}

configure_engine() {
    local config=/etc/docker/daemon.json merged
    command -v python3 >/dev/null || refuse "python3 is missing, so $config cannot be merged; it was left as it is"
    merged=$(merged_engine_config) || refuse "$config was left as it is; put it right and run this again"
    if [ "$merged" != "$(cat "$ENROL_ROOT$config" 2>/dev/null)" ]; then
        validate_engine_config "$merged"
        # The first copy is the one worth keeping: what stood there before the portal came.
        if [ -e "$ENROL_ROOT$config" ] && [ ! -e "$ENROL_ROOT$config.before" ]; then
            cp -p "$ENROL_ROOT$config" "$ENROL_ROOT$config.before"
        fi
        put_for_engine 0644 $config <<<"$merged"
    fi
    if [ "$TRANSPORT" = tls ]; then
        drop_host_option
    fi
}

validate_engine_config() { # JSON
    local draft
    # Engines before 23.0 cannot say beforehand what they think of a configuration.
    grep -q -- --validate <<<"$(dockerd --help 2>/dev/null)" || return 0
    draft=$(mktemp)
    printf '%s\n' "$1" >"$draft"
    dockerd --validate --config-file "$draft" ||
        refuse "the engine does not take its new configuration, $draft; /etc/docker/daemon.json was left as it is"
    rm "$draft"
}

# The distribution starts the engine with `-H fd://`. Beside `hosts` in daemon.json the engine would refuse to start, so
# its command is repeated here without that option.
drop_host_option() {
    local unit command=""
    for unit in /etc/systemd/system/docker.service /lib/systemd/system/docker.service /usr/lib/systemd/system/docker.service; do
        [ -e "$ENROL_ROOT$unit" ] || continue
        command=$(sed -n 's/^ExecStart=//p' "$ENROL_ROOT$unit" | sed -E 's# -H[ =]?fd://##; s# --host[ =]fd://##')
        break
    done
    [ -n "$command" ] || refuse "docker.service was not found, so the engine cannot be told to listen on port $ENGINE_PORT"
    put_for_engine 0644 /etc/systemd/system/docker.service.d/derp-portal.conf <<END
[Service]
ExecStart=
ExecStart=$command
END
}

start_engine() {
    systemctl enable docker.service
    if [ "$ENGINE_CHANGED" = yes ]; then
        say "restarting the engine"
        systemctl daemon-reload
        systemctl restart docker.service || engine_does_not_start
    else
        systemctl start docker.service || engine_does_not_start
    fi
}

engine_does_not_start() {
    journalctl -u docker.service -n 20 --no-pager >&2 || true
    refuse "the engine does not start; its last words are above. What stood in daemon.json before, if anything, is in daemon.json.before beside it"
}

# Over ssh the portal logs in as a user of its own. Whoever may speak to the engine can become root on this host (the docker
# group equals root), so the key may do that one thing and nothing else: no shell, no forwarding.
admit_portal_by_ssh() {
    local home=/var/lib/derp-portal
    if ! id -u derp-portal >/dev/null 2>&1; then
        useradd --system --create-home --home-dir $home --shell /bin/sh derp-portal
    fi
    # No password fits `*`, and unlike `!` it does not make sshd take the user for a locked one.
    usermod --password '*' --append --groups docker derp-portal
    # Written by root and not the user's to change, or the user could lift the restriction.
    put 0644 $home/.ssh/authorized_keys <<<"restrict,command=\"/usr/bin/docker system dial-stdio\" $SSH_PUBLIC_KEY"
    chmod 0755 "$ENROL_ROOT$home" "$ENROL_ROOT$home/.ssh"
    if grep -Eiq '^(allowusers|allowgroups) ' <<<"$(sshd -T 2>/dev/null)"; then
        warn "sshd_config has AllowUsers or AllowGroups: see to it that derp-portal is let in"
    fi
}

install_exporter() {
    # After the firewall: it answers anybody who reaches it.
    install_packages prometheus-node-exporter
    systemctl enable --now prometheus-node-exporter.service
}

report() {
    say "this host is ready"
    if [ "$IN_PORTAL" = yes ]; then
        echo "The portal has this server already; press 'Test connection' on its page. It was entered with:"
    else
        echo "Enter in the portal, Servers, Add:"
    fi
    [ -z "$SERVER_NAME" ] || printf '  name             %s\n' "$SERVER_NAME"
    [ -z "$REGION" ] || printf '  region           %s\n' "$REGION"
    printf '  IP address       %s\n' "$ADDRESS"
    printf '  engine address   %s\n' "$ENDPOINT"
    printf '  first, last port %s, %s\n' "$PORT_FIRST" "$PORT_LAST"
    if [ "$TRANSPORT" = tls ]; then
        echo "  certificates     leave empty: they are the portal's own"
    else
        printf '  host key         %s\n' "$(cut -d ' ' -f 1,2 "$ENROL_ROOT/etc/ssh/ssh_host_ed25519_key.pub" 2>/dev/null || echo unknown)"
    fi
    echo "If your provider has a security group or firewall of its own, open there: TCP and UDP $PORT_FIRST-$PORT_LAST for"
    if [ "$TRANSPORT" = tls ]; then
        echo "everybody; TCP $ENGINE_PORT and $EXPORTER_PORT for the portal."
    else
        echo "everybody; TCP $EXPORTER_PORT and the port of ssh for the portal."
    fi
}

main() {
    check_host
    refresh_packages
    install_basics
    keep_time
    # Before anything listens that is not for everybody.
    apply_firewall
    open_other_firewalls
    install_engine
    if [ "$TRANSPORT" = tls ]; then
        write_certificates
    fi
    configure_engine
    start_engine
    if [ "$TRANSPORT" = ssh ]; then
        admit_portal_by_ssh
    fi
    install_exporter
    report
}

# The last line: a script that was cut off on its way does nothing, and no command eats the rest of a script that comes
# through a pipe.
main </dev/null
