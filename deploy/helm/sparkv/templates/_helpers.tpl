{{- define "sparkv.name" -}}
{{- if contains "sparkv" .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}{{ else }}{{ printf "%s-sparkv" .Release.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "sparkv.selector" -}}
app.kubernetes.io/name: sparkv
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sparkv.labels" -}}
{{ include "sparkv.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "sparkv.keysSecret" -}}
{{- if and .Values.keys.secret .Values.keys.values }}{{ fail "keys.secret and keys.values: one of them" }}{{ end -}}
{{- if .Values.keys.values }}{{ include "sparkv.name" . }}-keys{{ else }}{{ .Values.keys.secret }}{{ end }}
{{- end }}

{{- define "sparkv.config" -}}
{{- $server := dict "metrics_open" .Values.metrics.open "drain_delay_seconds" (int .Values.drain.delaySeconds) "drain_seconds" (int .Values.drain.seconds) "log_format" "json" }}
{{- if include "sparkv.keysSecret" . }}{{ $_ := set $server "api_key_file" "/etc/sparkv/keys/keys.txt" }}{{ end }}
{{- $made := dict "model" (dict "source" .Values.model "device" .Values.device) "server" $server }}
{{- range $section, $settings := mergeOverwrite $made (deepCopy .Values.settings) }}
[{{ $section }}]
{{- range $name, $value := $settings }}
{{ $name }} = {{ include "sparkv.toml" $value }}
{{- end }}
{{ end }}
{{- end }}

{{- /* A value in TOML. Helm's own toToml writes whole numbers of values files with a fraction. */}}
{{- define "sparkv.toml" -}}
{{- if kindIs "map" . -}}
{ {{- range $index, $name := keys . | sortAlpha }}{{ if $index }},{{ end }} {{ $name }} = {{ include "sparkv.toml" (get $ $name) }}{{ end }} }
{{- else if kindIs "slice" . -}}
[{{ range $index, $item := . }}{{ if $index }}, {{ end }}{{ include "sparkv.toml" $item }}{{ end }}]
{{- else -}}
{{ toJson . }}
{{- end }}
{{- end }}

{{- /* What Prometheus calls the replicas: their service's name and namespace. */}}
{{- define "sparkv.series" -}}
job={{ include "sparkv.name" . | quote }}, namespace={{ .Release.Namespace | quote }}
{{- end }}
