# shellcheck shell=bash
# One Docker network a site, and the rules that make the picture: a member opens connections to the hub through NAT, and
# nothing opens a connection to a member. What carries our label or comment is ours; nothing else is ever touched.

LABEL=fleetboard-lab
# name:mtu; site-2 has the smaller MTU of a PPPoE or overlay uplink.
NETWORKS="fleet-public:1500 fleet-site-1:1500 fleet-site-2:1450"

networks_up() {
  local entry name number=0
  for entry in $NETWORKS; do
    name=${entry%:*}
    if docker network inspect "$name" >/dev/null 2>&1; then
      network_is_ours "$name" || die "a Docker network \"$name\" exists that the lab did not make; remove or rename it"
    else
      # A fixed subnet keeps node addresses over restarts; the bridge carries the network's name, for the rules.
      docker network create --label "$LABEL" --subnet "$(free_subnet)" \
        -o com.docker.network.bridge.name="$name" -o com.docker.network.driver.mtu="${entry#*:}" "$name"
    fi
    number=$((number + 1))
  done
  rules_up
}

network_is_ours() { [ -n "$(docker network ls -q --filter "label=$LABEL" --filter "name=^$1\$")" ]; }

# The first /24 of the candidates that no route of this machine touches.
free_subnet() {
  local block subnet
  for block in 172.30 172.29 172.28 10.213 192.168; do
    for subnet in "$block.201.0/24" "$block.202.0/24" "$block.203.0/24"; do
      if [ -z "$(ip -4 route show root "$subnet"; ip -4 route show match "$subnet" | grep -v ^default)" ]; then
        echo "$subnet"
        return
      fi
    done
  done
  die "no free subnet for a Docker network; free one of 172.28-30.201-203.0/24"
}

network_subnet() { docker network inspect -f '{{(index .IPAM.Config 0).Subnet}}' "$1"; }

# Rules are lost at a reboot, so every `up` puts back what is missing. They are printed one a line:
# table, chain, match and target.
rules_wanted() {
  local site hub
  hub=$(network_subnet fleet-public)
  for site in fleet-site-1 fleet-site-2; do
    # Docker 28 and newer drop, before routing, what comes for a container by another bridge.
    echo "raw PREROUTING -i $site -d $hub -j ACCEPT"
    echo "filter DOCKER-USER -i $site -o fleet-public -j ACCEPT"
    echo "filter DOCKER-USER -i fleet-public -o $site -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
  done
}

rules_up() {
  local rule
  while read -ra rule; do
    rule_run -C "${rule[@]}" 2>/dev/null || rule_run -I "${rule[@]}"
  done < <(rules_wanted)
}

# rule_run -C|-I TABLE CHAIN MATCH...
rule_run() { iptables -w 10 -t "$2" "$1" "$3" "${@:4}" -m comment --comment "$LABEL"; }

rules_present() {
  local rule
  while read -ra rule; do
    rule_run -C "${rule[@]}" 2>/dev/null || return 1
  done < <(rules_wanted)
}

rules_down() {
  local table rule
  for table in raw filter; do
    while read -ra rule; do
      iptables -w 10 -t "$table" -D "${rule[@]:1}"
    done < <(iptables-save -t "$table" | grep -- "--comment $LABEL" || true)
  done
}

networks_down() {
  local name
  for name in $(docker network ls --filter "label=$LABEL" --format '{{.Name}}'); do docker network rm "$name"; done
}
