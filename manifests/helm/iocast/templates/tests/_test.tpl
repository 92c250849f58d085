{{- define "iocast.test.labels" -}}
{{- $labels := include "iocast.labels" . | fromYaml -}}
{{- set $labels "app.kubernetes.io/name" (printf "%s-test" (include "iocast.name" .)) | toYaml -}}
{{- end }}

{{/* What is made for `helm test` only, in the order of its weights, and stays if that fails. */}}
{{- define "iocast.test.hook" -}}
helm.sh/hook: test
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{/* A pod as Pod Security's profile `restricted` demands it. */}}
{{- define "iocast.test.pod" -}}
automountServiceAccountToken: false
# Programs of EPICS do not handle SIGTERM, so as process 1 of its own namespace an IOC would not end when it is asked to.
shareProcessNamespace: true
{{- with .values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
nodeSelector: {{ toYaml .selector | nindent 2 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "iocast.test.container" -}}
image: {{ .image }}
resources:
  requests:
    cpu: 10m
    memory: 32Mi
  limits:
    memory: 128Mi
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop:
      - ALL
{{- end }}
