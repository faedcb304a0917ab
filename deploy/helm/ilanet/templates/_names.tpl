{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{- /* The labels of an object, as a flow mapping; takes the component, '' for none. */ -}}
{{- define "ilanet.labels" -}}
{app.kubernetes.io/name: ilanet, app.kubernetes.io/part-of: ilanet{{ if . }}, app.kubernetes.io/component: {{ . }}{{ end }}}
{{- end }}

{{- /* An image's name; takes the root and the value. */ -}}
{{- define "ilanet.image" -}}
{{- $root := index . 0 }}{{ $image := index . 1 -}}
{{ printf "%s:%s" $image.repository ($image.tag | default $root.Chart.AppVersion) | quote }}
{{- end }}

{{- /* The certificates of an etcd that is not ours; takes the root, and whose pair. */ -}}
{{- define "ilanet.etcdVolume" -}}
{{- $root := index . 0 }}{{ $who := index . 1 }}
{{- if not $root.Values.etcd.own -}}
- name: etcd
  secret:
    secretName: {{ $root.Values.etcd.external.secretName }}
    items:
    - {key: ca.crt, path: ca.crt}
    - {key: {{ $who }}.crt, path: tls.crt}
    - {key: {{ $who }}.key, path: tls.key}
{{- end }}
{{- end }}

{{- define "ilanet.etcdMount" -}}
{{- if not .Values.etcd.own -}}
- {name: etcd, mountPath: /etc/ilanet-etcd, readOnly: true}
{{- end }}
{{- end }}

{{- /* The table [etcd] of both settings files; takes the root, and the paths of our own etcd's certificates. */ -}}
{{- define "ilanet.etcdTable" -}}
{{- $root := index . 0 }}{{ $files := index . 1 -}}
[etcd]
{{- if $root.Values.etcd.own }}
endpoints = ["[${ILANET_ETCD_SERVICE_HOST}]:2379"]
authority = "ilanet-etcd"
ca = {{ $files.ca | toJson }}
certificate = {{ $files.certificate | toJson }}
key = {{ $files.key | toJson }}
{{- else }}
endpoints = {{ toJson $root.Values.etcd.external.endpoints }}
authority = {{ toJson $root.Values.etcd.external.authority }}
ca = "/etc/ilanet-etcd/ca.crt"
certificate = "/etc/ilanet-etcd/tls.crt"
key = "/etc/ilanet-etcd/tls.key"
{{- end }}
{{- end }}

{{- /* Further keys of a table.  JSON of texts, numbers, truth values and lists of texts is TOML. */ -}}
{{- define "ilanet.keys" -}}
{{- range $key, $value := . }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
