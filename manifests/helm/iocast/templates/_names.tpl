{{- define "iocast.name" -}}
{{ .Values.nameOverride | default .Chart.Name }}
{{- end }}

{{/* By which pods are found: the same for the life of a release. */}}
{{- define "iocast.selector" -}}
app.kubernetes.io/name: {{ include "iocast.name" . }}
{{- end }}

{{- define "iocast.labels" -}}
{{ include "iocast.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What most objects begin with. */}}
{{- define "iocast.metadata" -}}
name: {{ include "iocast.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "iocast.labels" . | nindent 2 }}
{{- end }}
