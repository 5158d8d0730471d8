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

{{- define "fleetboard.namespaceCheck" -}}
{{- if ne .Release.Namespace "fleetboard-system" }}
{{- fail (printf "namespace %q: Fleetboard's parts find each other in fleetboard-system; install with --namespace fleetboard-system --create-namespace" .Release.Namespace) }}
{{- end }}
{{- end }}
