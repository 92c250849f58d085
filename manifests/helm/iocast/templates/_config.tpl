{{/* The configuration file, as it is or of `domains` and `settings`. */}}
{{- define "iocast.config" -}}
{{- $typed := or .Values.domains .Values.settings -}}
{{- if and .Values.config $typed -}}
{{- fail "`config` is the whole configuration file: set either that, or `domains` and `settings`, not both" -}}
{{- else if .Values.config -}}
{{ .Values.config }}
{{- else if not .Values.domains -}}
{{- fail "which domains? Set `domains`, as in --set domains.bl07.uplink=eth0, or the whole file: --set-file config=config.toml" -}}
{{- else -}}
{{- include "iocast.toml.keys" .Values.settings -}}
{{- range $name, $domain := .Values.domains }}
[domain.{{ $name | quote }}]
{{ include "iocast.toml.keys" $domain -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The entries of a table, a line each. */}}
{{- define "iocast.toml.keys" -}}
{{- range $key, $value := . }}
{{- $key }} = {{ include "iocast.toml" $value }}
{{ end -}}
{{- end }}

{{/* A value in one line. JSON's scalars and texts are TOML's, too; Helm's own toToml makes 5.0 of every 5. */}}
{{- define "iocast.toml" -}}
{{- if kindIs "map" . -}}
{ {{- range $index, $key := keys . | sortAlpha }}{{ if $index }},{{ end }} {{ $key | quote }} = {{ include "iocast.toml" (get $ $key) }}{{ end }} }
{{- else if kindIs "slice" . -}}
[{{ range $index, $item := . }}{{ if $index }}, {{ end }}{{ include "iocast.toml" $item }}{{ end }}]
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end }}
