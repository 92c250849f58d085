{{- define "iocast.image" -}}
{{- $image := .Values.image -}}
image: {{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .Chart.AppVersion }}{{ end }}
{{- with $image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end }}
{{/* What the agent and the uninstaller share: image, privileges, mounts. */}}
{{- define "iocast.container" -}}
{{ include "iocast.image" . }}
terminationMessagePolicy: FallbackToLogsOnError
resources: {{ toYaml .Values.resources | nindent 2 }}
securityContext:
  runAsUser: 0
  runAsGroup: 0
  privileged: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop:
      - ALL
    add:
      - NET_ADMIN
      - NET_RAW
      - BPF
      - PERFMON
      - DAC_OVERRIDE
  seccompProfile:
    type: RuntimeDefault
  appArmorProfile:
    type: Unconfined
  {{- if .Values.openshift }}
  seLinuxOptions:
    type: spc_t
  {{- end }}
volumeMounts:
  - name: config
    mountPath: /etc/iocast
    readOnly: true
  - name: cni-bin
    mountPath: /opt/cni/bin
  - name: cni-conf
    mountPath: /etc/cni/net.d
  # The directory above the BPF file system, so that one that is mounted later is seen. That stays writable.
  - name: bpffs
    mountPath: /sys/fs
    readOnly: true
    mountPropagation: HostToContainer
  - name: netns
    mountPath: /run/netns
    readOnly: true
    mountPropagation: HostToContainer
  {{- if .Values.runtime.directory }}
  - name: runtime
    mountPath: /run/cri
    readOnly: true
    mountPropagation: HostToContainer
  {{- end }}
  {{- if and .Values.page.enabled (not .Values.uninstall) }}
  - name: page
    mountPath: /etc/iocast-page
    readOnly: true
  {{- end }}
  {{- if and .Values.subnets.enabled (not .Values.uninstall) }}
  - name: subnets
    mountPath: /etc/iocast-subnets
    readOnly: true
  {{- end }}
{{- end }}
