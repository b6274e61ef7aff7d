// The course of a sandbox's processor time, memory and disk.

import { useEffect, useRef, useState } from 'preact/hooks'
import uPlot from 'uplot'
import { type Metric, get } from './api'
import { Problem, usePolled } from './parts'

const MIB = 1024 * 1024

export function Graph({ title, unit, at, values, most }: { title: string; unit: string; at: number[]; values: number[]; most?: number }) {
  const box = useRef<HTMLDivElement>(null)
  const plot = useRef<uPlot | null>(null)
  useEffect(() => {
    const style = getComputedStyle(document.documentElement)
    const colour = (name: string) => style.getPropertyValue(name).trim()
    const axis = { stroke: colour('--text'), grid: { stroke: colour('--line'), width: 1 }, ticks: { stroke: colour('--line') }, font: '12px system-ui' }
    plot.current = new uPlot({
      width: box.current!.clientWidth || 300,
      height: 160,
      legend: { show: false },
      cursor: { y: false },
      scales: { y: { range: (_plot, _least, highest) => [0, Math.max(highest * 1.1, most ?? 1)] } },
      axes: [axis, { ...axis, size: 60 }],
      series: [{}, { stroke: colour('--accent'), fill: colour('--accent-faint'), width: 2 }],
    }, [at, values], box.current!)
    const observer = new ResizeObserver(() => plot.current?.setSize({ width: box.current!.clientWidth, height: 160 }))
    observer.observe(box.current!)
    return () => {
      observer.disconnect()
      plot.current?.destroy()
    }
  }, [])
  useEffect(() => plot.current?.setData([at, values]), [at, values])
  const last = values.at(-1)
  return <figure class="graph"><figcaption>{title}: {last === undefined ? 'no samples yet' : `${Math.round(last * 10) / 10} ${unit}`}</figcaption><div ref={box} role="img" aria-label={`${title} over time`} /></figure>
}

export function Graphs({ id }: { id: string }) {
  const [samples, setSamples] = useState<Metric[]>([])
  const [problem] = usePolled(async signal => setSamples(await get<Metric[]>(`/sandboxes/${id}/metrics`, {}, signal)), 5000, [id])
  const at = samples.map(one => one.timestampUnix)
  return (
    <div class="graphs">
      <Problem text={problem} />
      <Graph title="CPU" unit="%" at={at} values={samples.map(one => one.cpuUsedPct)} most={100} />
      <Graph title="Memory" unit="MiB" at={at} values={samples.map(one => one.memUsed / MIB)} />
      <Graph title="Disk" unit="MiB" at={at} values={samples.map(one => one.diskUsed / MIB)} />
    </div>
  )
}
