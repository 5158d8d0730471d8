# shellcheck shell=bash
# The kind node image where kindest/node can't be pulled: Debian, kind's own node files out of its Go module, and the
# programs of parts/. The images of the control plane are inside it already, under the names kubeadm asks for.

# Named after all it is made of, so that a change makes a new one.
node_image_name() {
  local hash
  hash=$({
    echo "$KIND $ETCD $COREDNS $CNI_PLUGINS $(debian_node_name)"
    declare -f control_plane_images program_image copy_program_of_node node_base_image node_image_preload
    cat "$HERE"/node/*
  } | short_hash)
  echo "fleetboard-lab/node:v$KUBERNETES-$hash"
}

node_image() { if [ "$NODE_SOURCE" = official ]; then echo "$OFFICIAL_NODE"; else node_image_name; fi; }

# An image of earlier parts takes over a gigabyte, and no cluster is made of it again. Docker refuses to remove one that
# a node uses.
node_image_prune() {
  local image present
  present=$(node_image)
  for image in $(docker images --format '{{.Repository}}:{{.Tag}}' fleetboard-lab/node); do
    [ "$image" = "$present" ] || docker rmi "$image" >/dev/null 2>&1 || true
  done
}

node_image_build() {
  if has_image "$(node_image_name)"; then return; fi
  local work=$SCRATCH/node-image
  rm -rf "$work"
  mkdir -p "$work"
  control_plane_images "$work"
  node_base_image "$work/base"
  node_image_preload "$work/images.tar"
  rm -rf "$work"
}

# control_plane_images FOLDER: make the images, and save them as FOLDER/images.tar.
control_plane_images() {
  local work=$1 names name program
  names=$("$PARTS/kubeadm" config images list --kubernetes-version "v$KUBERNETES")
  gcc -Os -static -o "$work/pause" "$HERE/node/pause.c"
  for name in $names; do
    mkdir -p "$work/root/usr/local/bin"
    case $name in
      */pause:*) program_image "$name" "$work/pause" "$work/root" '["/usr/local/bin/pause"]' ;;
      */coredns:*) program_image "$name" "$PARTS/coredns" "$work/root" '["/usr/local/bin/coredns"]' ;;
      */kube-proxy:*)
        # nft prints a protocol it can't name as a number. kube-proxy doesn't know such an element for its own and deletes
        # it at every full sync.
        copy_program_of_node nft "$work/root" /etc/protocols /etc/services
        program_image "$name" "$PARTS/kube-proxy" "$work/root" '[]'
        ;;
      *)
        program=$(basename "${name%:*}")
        program_image "$name" "$PARTS/$program" "$work/root" '[]'
        ;;
    esac
    rm -rf "$work/root"
  done
  # shellcheck disable=SC2086 # a list
  docker save -o "$work/images.tar" $names
  grep '/pause:' <<<"$names" >"$work/pause-name"
}

# program_image NAME PROGRAM ROOT ENTRYPOINT: an image of one static program, with what ROOT holds already.
program_image() {
  install -m755 "$2" "$3/usr/local/bin/"
  tar -C "$3" --numeric-owner -c . |
    docker import -c "ENTRYPOINT $4" -c 'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$1"
}

# copy_program_of_node PROGRAM ROOT [FILE...]: a program of the nodes' Debian, with the libraries it is linked to and the
# files it reads.
# shellcheck disable=SC2016 # for the shell in the container
copy_program_of_node() {
  docker run --rm --network none "$(debian_node_name)" \
    sh -c 'p=$(command -v "$1"); shift; tar -chf - "$p" $(ldd "$p" | grep -o "/[^ ]*") "$@"' _ "$1" "${@:3}" | tar -C "$2" -x
}

# node_base_image FOLDER: Debian with kind's node files and the programs; FOLDER becomes the build context.
node_base_image() {
  local context=$1 files
  files=$(go_module_dir "sigs.k8s.io/kind@v$KIND")/images/base/files
  mkdir -p "$context/programs" "$context/cni"
  cp -r "$files" "$context/kind-files"
  chmod -R u+w "$context/kind-files"
  cp "$PARTS"/{kubeadm,kubelet,kubectl} "$context/programs/"
  cp "$PARTS"/{bridge,host-local,loopback,portmap,ptp} "$context/cni/"
  cp "$HERE/node/default-storage.yaml" "$HERE/node/default-cni.yaml" "$context/"
  docker build -t fleetboard-lab/node-base -f "$HERE/node/Dockerfile" \
    --build-arg "DEBIAN=$(debian_node_name)" --build-arg "KUBERNETES=v$KUBERNETES" \
    --build-arg "PAUSE=$(cat "$context/../pause-name")" "$context"
}

# node_image_preload TAR: let the node's own containerd import the images, then commit what it wrote.
node_image_preload() {
  local builder=fleetboard-lab-node-build
  docker rm -f "$builder" >/dev/null 2>&1 || true
  docker run -d --name "$builder" --privileged --network none --entrypoint sleep fleetboard-lab/node-base infinity
  docker exec "$builder" sh -c 'containerd >/tmp/containerd.log 2>&1 & for i in $(seq 300); do ctr version >/dev/null 2>&1 && exit; sleep 0.1; done; exit 1'
  docker exec -i "$builder" ctr -n k8s.io images import --all-platforms --no-unpack --digests - <"$1"
  docker exec "$builder" sh -c 'pkill containerd; sleep 1
    rm -rf /tmp/containerd.log /run/containerd /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs /etc/cni/net.d/*'
  docker commit -c 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' "$builder" "$(node_image_name)"
  docker rm -f "$builder"
}
