{{- define "fleetboard.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "fleetboard.labels" -}}
app.kubernetes.io/part-of: fleetboard
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* What each of our pods carries for a Prometheus that reads annotations. */}}
{{- define "fleetboard.scrape" -}}
prometheus.io/scrape: "true"
prometheus.io/port: "9464"
prometheus.io/path: /metrics
{{- end }}

{{- define "fleetboard.probes" -}}
livenessProbe:
  httpGet: {path: /healthz, port: observe}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: observe}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 3
{{- end }}

{{/* For the parts that need no privilege at all. */}}
{{- define "fleetboard.unprivileged" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "fleetboard.env" -}}
- {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
- {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
- {name: LOG_LEVEL, value: {{ .Values.logLevel | quote }}}
{{- end }}

{{/*
What a cluster whose every node waits for cnf needs to come up: the parts that join it tolerate the taint, and ask the
node's own resolver for the hub, for the cluster's DNS waits like all others.
*/}}
{{- define "fleetboard.startupTolerations" -}}
{{- if .Values.cnf.startupTaint -}}
- {key: fleetboard.io/cnf-not-ready, operator: Exists}
{{- end }}
{{- end }}
{{- define "fleetboard.startupDNS" -}}
{{- if .Values.cnf.startupTaint -}}
dnsPolicy: Default
{{- end }}
{{- end }}

{{- define "fleetboard.namespaceCheck" -}}
{{- if ne .Release.Namespace "fleetboard-system" }}
{{- fail (printf "namespace %q: Fleetboard's parts find each other in fleetboard-system; install with --namespace fleetboard-system --create-namespace" .Release.Namespace) }}
{{- end }}
{{- end }}

{{/* Which namespaces take imports: syncer and crossdns must agree. */}}
{{- define "fleetboard.imports" -}}
- {name: IMPORT_NAMESPACES, value: {{ join "," .Values.imports.namespaces | quote }}}
- {name: IMPORT_NAMESPACES_REFUSED, value: {{ join "," .Values.imports.refused | quote }}}
{{- end }}

{{/* The version that the cluster serves MutatingAdmissionPolicy at: v1 from Kubernetes 1.36, v1beta1 before, where it is turned on. */}}
{{- define "fleetboard.attachAPI" -}}
{{- $group := "admissionregistration.k8s.io" }}
{{- if .Values.attach.apiVersion }}
{{- printf "%s/%s" $group .Values.attach.apiVersion }}
{{- else if .Capabilities.APIVersions.Has (printf "%s/v1/MutatingAdmissionPolicy" $group) }}
{{- printf "%s/v1" $group }}
{{- else if .Capabilities.APIVersions.Has (printf "%s/v1beta1/MutatingAdmissionPolicy" $group) }}
{{- printf "%s/v1beta1" $group }}
{{- else }}
{{- fail (printf "attach.default is %q, but this cluster serves no MutatingAdmissionPolicy (Kubernetes 1.36, or 1.34 with its feature gate and v1beta1 turned on): set attach.apiVersion where Helm can't ask the cluster, or use Multus' default networks (docs/attach.md)" .Values.attach.default) }}
{{- end }}
{{- end }}
