// The page's policy allows style sheets by its nonce alone. xterm.js makes some without it and sets the style of cells by an attribute, so the
// document does for it what the policy wants: the nonce, and styles by the object model.

export const nonce = document.querySelector<HTMLMetaElement>('meta[name=cloister-nonce]')?.content ?? ''

export function keepToPolicy(): void {
  const create = document.createElement.bind(document) as (tag: string, options?: ElementCreationOptions) => HTMLElement
  document.createElement = ((tag: string, options?: ElementCreationOptions) => {
    const element = create(tag, options)
    if (tag === 'style') element.nonce = nonce
    return element
  }) as typeof document.createElement
  const set = Reflect.get(Element.prototype, 'setAttribute') as typeof Element.prototype.setAttribute
  Element.prototype.setAttribute = function (this: Element, name: string, value: string) {
    if (name === 'style' && this instanceof HTMLElement) this.style.cssText = value
    else set.call(this, name, value)
  }
}
